from synthmix.study_control.front_end import main

main()
