from classifier_evaluation.front_end import main

main()
