"""How an image set is divided into shards: consecutive images each, so that any worker can make any of them."""

SHARD_IMAGES = 64


def shard_count(images: int) -> int:
    return -(-images // SHARD_IMAGES)


def shard_range(images: int, number: int) -> range:
    """The indices of a shard's images."""
    return range(number * SHARD_IMAGES, min(images, (number + 1) * SHARD_IMAGES))
