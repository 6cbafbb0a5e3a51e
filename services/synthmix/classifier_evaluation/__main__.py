from synthmix.classifier_evaluation.front_end import main

main()
