"""Image synthesis: synthetic images from an adapter, in shards that workers make independently.

front_end            the gRPC service; imports no torch
planning             what a request means: defaults, checks, canonical form
image_set_operation  one operation: a task for each shard that isn't there yet
importing            what a request to import images means; import_operation and import_task do it
imported_images      from an upload to an image set's payloads
drawn_adapters       which of an artifact's adapters an image is made with
sampling             what a worker does for one shard
unet_rewrites        a UNet's modules, replaced by quicker ones that give the same numbers
batch_size           how many images are made at once
"""
