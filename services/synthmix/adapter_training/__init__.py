"""Adapter training: low-rank weights trained on a train split against a frozen base model.

Without torch, for front ends:

front_end          the gRPC service
planning           what a request means: defaults, checks, canonical form
methods, targets   what can be trained, in which layers; optimizers and prior_options, by what and beside what
held_out_rows      which train images are held out; portions, which ones each of an artifact's adapters has
image_options      what an adapter for each image excludes, and what it costs
sampling_defaults  how a training samples images on its way
importing          what a request means that brings an adapter of another program
model_service      the gRPC service of base models; model_importing, what a request means that brings one

On workers:

adapter_operation  one operation: its tasks, and the manifest in the end
inputs             the train part and the base model of a task; kept_inputs, what stays of them for the next one
autoencoder_check  a task: what the base model's autoencoder leaves of train images
task               a task: the trainings of an artifact
import_task        a task: an adapter of another program; imported_files, what its file says
model_operation    an operation without tasks: a base model's files, from uploads to payloads
recipe             the training loop, with objective, training_prompts, prior_images and held_out for a step's numbers
previews           what an adapter makes of each class on its way
fresh_adapters     what is trained, as it begins; adapter_files, what it is stored as
computation        in what numbers a step computes, and unet_rewrites, how it takes less time; optimizer_states
checkpoints        a training's state in object storage, and stopped, where it was to end before its last image
"""
