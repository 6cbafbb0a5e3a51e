"""What a network that was trained on photographs makes of images, and distances between images by it.

Used by workers, which know the images of classifiers and of generators; it knows nothing of either.
"""
