from synthmix.adapter_training.front_end import main

main()
