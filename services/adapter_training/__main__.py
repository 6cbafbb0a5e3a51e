from adapter_training.front_end import main

main()
