"""What the payloads of images in object storage are called. The client asks for them too, without numpy and pyarrow."""

INDEX = "index.parquet"


def shard_name(number: int) -> str:
    return f"images-{number:05d}.parquet"


def part_payload(part: str) -> str:
    """Of a split: which rows of the dataset's index a part has."""
    return f"{part}.parquet"
