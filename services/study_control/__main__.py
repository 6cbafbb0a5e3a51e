from study_control.front_end import main

main()
