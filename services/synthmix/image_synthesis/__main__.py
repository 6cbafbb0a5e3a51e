from synthmix.image_synthesis.front_end import main

main()
