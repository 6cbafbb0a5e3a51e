"""What adapter methods and sets of layers refuse, what is wrong and what to do; and what a plan says of an adapter."""

import math
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from memory_object_store import MemoryObjectStore
from synthmix.adapter_training import methods, optimizers, planning, prior_options
from synthmix.adapter_training.front_end import adapter_message
from synthmix.adapter_training.methods import METHODS, OWN_FIELDS
from synthmix.adapter_training.optimizers import OPTIMIZERS
from synthmix.adapter_training.portions import Portion
from synthmix.adapter_training.targets import LONGEST_PATTERN, TARGETS, adapted_layers, module_names
from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.image_data.generators import classes_made, recorded_adapter_settings
from synthmix.latent_diffusion.base_model import BUILTIN, BaseModel, resolve
from synthmix.latent_diffusion.part_layers import Layer, PartLayers, layers_of
from synthmix.service_kit.adapter_payloads import WITHOUT_ADAPTER
from synthmix.service_kit.artifacts import Manifest
from synthmix.service_kit.errors import FailedPrecondition, InvalidArgument
from synthmix.service_kit.resource_names import ADAPTERS, ArtifactName

ROOT = Path(__file__).resolve().parents[2]
CONVOLUTIONS = "attention+feedforward+convolution"
# Some of Stable Diffusion 1.5's, with their true shapes.
SD15 = layers_of(
    {
        "conv_in.weight": (320, 4, 3, 3),
        "conv_in.bias": (320,),
        "time_embedding.linear_1.weight": (1280, 320),
        "down_blocks.0.attentions.0.norm.weight": (320,),
        "down_blocks.0.attentions.0.proj_in.weight": (320, 320, 1, 1),
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight": (320, 320),
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0.weight": (320, 320),
        "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj.weight": (2560, 320),
        "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.2.weight": (320, 1280),
        "up_blocks.0.resnets.0.conv1.weight": (1280, 2560, 3, 3),
        "up_blocks.0.resnets.0.conv_shortcut.weight": (1280, 2560, 1, 1),
        "up_blocks.0.resnets.1.conv1.weight": (1280, 2560, 3, 3),
        "up_blocks.0.resnets.2.conv1.weight": (1280, 1920, 3, 3),
    }
)


@pytest.fixture(scope="module")
def builtin() -> BaseModel:
    return resolve(BUILTIN, field="adapter.settings.base_model", weights=False)


def planned(given: AdapterSettings, base_model: BaseModel) -> AdapterSettings:
    planning.check_method(given)
    settings = planning.filled(given, base_model)
    planning.check_settings(settings, base_model)
    return settings


REFUSALS: list[tuple[dict[str, Any], str, str, str]] = [
    # The settings, the field that is named, what is wrong, what to do.
    *(
        ({"method": method}, "method", "is not one of the choices", remedy)
        for method, remedy in (
            ("LoRA", "did you mean 'lora'"),
            ("adalora", "did you mean 'lora'"),
            ("", "use one of: lora, rslora"),
            ("lora ", "did you mean 'lora'"),
            ("ia3", "use one of: lora, rslora, dora, pissa, olora, loha, lokr, oft, boft, none, full"),
        )
    ),
    *(
        (
            {"method": method, field: 8},
            field,
            f"is no option of {method}, which ",
            "leave it out, or use one of: ",
        )
        for method in METHODS
        for field in OWN_FIELDS
        if field not in METHODS[method].takes
    ),
    *(
        ({"method": method, "targets": targets}, "targets", f"which {method} cannot adapt", "use attention")
        for method in ("pissa", "olora")
        for targets in (CONVOLUTIONS, "all", r".*\.conv1", "conv_in")
    ),
    *(
        ({"method": "oft", "targets": targets}, "targets", "which oft cannot adapt", "use attention")
        for targets in (CONVOLUTIONS, "all", "conv_in", r".*\.(to_q|conv1)")
    ),
    *(
        ({"method": method, "rank": rank}, "rank", f"is more than {method} can factor", "use at most ")
        for method in ("pissa", "olora")
        for rank in (513, 1024)
    ),
    *(
        ({"method": method, "block_size": size}, "block_size", "does not divide the ", "use a divisor of every layer's")
        for method in ("oft", "boft")
        for size in (3, 7, 100, 1024)
    ),
    ({"method": "boft", "block_size": 16, "dropout": 0.01}, "dropout", "leaves out none of the ", "use 0, more, or"),
    ({"least_noise": 0.5, "most_noise": 0.5}, "least_noise", "is not below most_noise, 0.5", "lower it, or raise most"),
    ({"least_noise": 1.0}, "least_noise", "is not below most_noise, 1", "lower it, or raise most_noise"),
    ({"patience": 3}, "patience", "waits for the loss on held-out images", "set held_out, such as 0.1, or leave"),
    ({"held_out": 0.1, "evaluations": 0}, "evaluations", "is out of range", "use a value between 1 and 1000"),
    ({"evaluations": 5}, "evaluations", "says how often the loss on held-out images is measured", "set held_out, such"),
    (
        {"stop_at": 4800},
        "stop_at",
        "is not below images_seen, 4800, with which the training ends",
        "lower it, or leave it out",
    ),
    ({"stop_at": 101, "images_seen": 100}, "stop_at", "is not below images_seen, 100", "lower it, or leave it out"),
    ({"stop_at": 0}, "stop_at", "is out of range", "use a value between 1 and 1000000000 images"),
    ({"stop_at": 600, "per": "class"}, "stop_at", "ends one training, and each class has", "or use per: dataset"),
    (
        # Both end in the second batch of 16.
        {"stop_at": 32, "class_tokens": 1, "class_token_images_seen": 17},
        "stop_at",
        "ends the training while class tokens alone are learned",
        "use more than 32, or a lower class_token_images_seen",
    ),
    ({"previews": 17}, "previews", "is out of range", "use a value between 0 and 16 images"),
    ({"previews": -1}, "previews", "is out of range", "use a value between 0 and 16 images"),
    (
        {"prompt": "a {label}", "more_prompts": ["a {label}"]},
        "more_prompts[0]",
        "is the prompt itself",
        "leave it out: all prompts are drawn as often",
    ),
    (
        {"method": "loha", "targets": "all", "dropout": 0.5},
        "dropout",
        "leaves out all 8 outputs of conv_out now and then",
        "use less than 0.03",
    ),
    ({"more_prompts": ["a cell"]}, "more_prompts[0]", "does not name the class", "put {label} where"),
    ({"more_prompts": ["{label}", "{label}"]}, "more_prompts[1]", "is there twice", "leave one of them out"),
    *(
        ({field: value}, field, problem, remedy)
        for field, value, problem, remedy in (
            ("min_snr_gamma", 0.0, "is out of range", "use a value above 0 and of at most 1000"),
            ("noise_offset", 1.5, "is out of range", "use a value between 0 and 1"),
            ("timestep_sampling", "normal", "is not one of the choices", "did you mean 'logit_normal'"),
            ("learning_rate_schedule", "cosin", "is not one of the choices", "did you mean 'cosine'"),
            ("distribution_matching", -1.0, "is out of range", "use a value between 0 and 100"),
            ("loraplus_ratio", 0.5, "is out of range", "use a value between 1 and 1000"),
            ("ema_decay", 1.0, "is out of range", "use a value of at least 0 and below 1"),
            ("held_out", 0.6, "is out of range", "use a value between 0 and 0.5"),
            ("warmup", math.nan, "is out of range", "use a value between 0 and 1"),
            ("per", "classes", "is not one of the choices", "did you mean 'class'"),
        )
    ),
    (
        {"text_encoder_targets": "atention"},
        "text_encoder_targets",
        "is not one of the choices",
        "did you mean 'attention'",
    ),
    (
        {"text_encoder_learning_rate": 1e-4},
        "text_encoder_learning_rate",
        "is of an adapter in the text encoder, and there is none",
        "set text_encoder_targets, to attention or ",
    ),
    *(
        ({field: value}, field, "is of learned class tokens, and there are none", "set class_tokens, such as 1")
        for field, value in {
            "class_token_word": "cell",
            "class_token_learning_rate": 1e-3,
            "class_token_images_seen": 100,
        }.items()
    ),
    ({"class_tokens": 17}, "class_tokens", "is out of range", "use a value between 0 and 16"),
    ({"class_tokens": -1}, "class_tokens", "is out of range", "use a value between 0 and 16"),
    (
        {"class_tokens": 1, "class_token_learning_rate": 0.0},
        "class_token_learning_rate",
        "is out of range",
        "use a value between 1e-08 and 1",
    ),
    ({"method": "none"}, "method", "leaves nothing to be learned without class_tokens", "set class_tokens, such as 1"),
    *(
        ({"method": "none", "class_tokens": 1, field: value}, field, problem, remedy)
        for field, value, problem, remedy in (
            ("rank", 8, "is no option of none, which adapts no layer", "leave it out, or use one of: lora"),
            (
                "targets",
                "all",
                "is of layers that get an adapter, and none adapts no layer",
                "use one of: lora",
            ),
            ("text_encoder_targets", "attention", "is of layers that get an adapter", "leave it out, or use one"),
            ("dropout", 0.1, "is of layers that get an adapter", "leave it out, or use one of: lora"),
            ("class_token_images_seen", 4, "leaves no images for an adapter, and there is none", "leave it out"),
        )
    ),
    *(
        ({"method": "full", field: value}, field, problem, "leave it out, or use one of: lora")
        for field, value, problem in (
            ("rank", 8, "is no option of full, which trains all weights of the UNet"),
            ("loraplus_ratio", 4.0, "is no option of full"),
            ("targets", "transformer", "is of layers that get an adapter, and full trains all weights of the UNet"),
            ("text_encoder_targets", "attention", "is of layers that get an adapter"),
            ("dropout", 0.1, "is of layers that get an adapter"),
        )
    ),
    *(
        (
            {"class_tokens": 1, "images_seen": 100, "class_token_images_seen": seen},
            "class_token_images_seen",
            "leaves no images for an adapter of 100",
            "use less than images_seen, 100",
        )
        for seen in (100, 101)
    ),
    *(
        ({field: value}, field, "is of prior preservation, which is off", "set prior_preservation, such as 1, or leave")
        for field, value in (
            ("prior_preservation_source", "train"),
            ("prior_images", 20),
            ("prior_prompt", "a cell"),
        )
    ),
    (
        {"prior_preservation": 1.0, "prior_preservation_source": "train", "prior_images": 20},
        "prior_images",
        "counts what the base model makes",
        "leave it out, or use the source base_model",
    ),
    ({"prior_preservation": 1.0, "prior_prompt": ""}, "prior_prompt", "has 0 characters", "use 1 to 1000, such as"),
    ({"prior_preservation": 1.0, "prior_images": 0}, "prior_images", "is out of range", "use a value between 1 and"),
    ({"prior_preservation": -1.0}, "prior_preservation", "is out of range", "use a value between 0 and 100"),
    (
        {"prior_preservation": 1.0, "prior_preservation_source": "base"},
        "prior_preservation_source",
        "is not one of the choices",
        "use one of: base_model, train",
    ),
    ({"precision": "bf16"}, "precision", "is not one of the choices", "use one of: automatic, float32, bfloat16"),
    ({"precision": "float16"}, "precision", "is not one of the choices", "use one of: automatic, float32, bfloat16"),
    *(
        ({"optimizer": optimizer}, "optimizer", "is not one of the choices", remedy)
        for optimizer, remedy in (
            ("AdamW", "did you mean 'adamw'"),
            ("adamw_8bit", "did you mean 'adamw8bit'"),
            ("lion", "use one of: adamw, adamw8bit, prodigy, schedule_free"),
        )
    ),
    (
        {"optimizer": "prodigy", "text_encoder_targets": "attention", "text_encoder_learning_rate": 0.5},
        "text_encoder_learning_rate",
        "is a second learning rate, and prodigy finds one",
        "use 1, which is the factor of all, or adamw",
    ),
    (
        {"optimizer": "prodigy", "class_tokens": 1, "class_token_learning_rate": 0.5},
        "class_token_learning_rate",
        "is a second learning rate, and prodigy finds one",
        "use 1, which is the factor of all, or adamw",
    ),
    (
        {"optimizer": "schedule_free", "class_tokens": 1, "class_token_images_seen": 100},
        "class_token_images_seen",
        "lets the adapter wait, and schedule_free counts",
        "leave it out, or use adamw",
    ),
    *(
        ({"optimizer": optimizer, field: value}, field, problem, remedy)
        for optimizer, field, value, problem, remedy in (
            ("prodigy", "loraplus_ratio", 16.0, "is a second learning rate, and prodigy", "leave it out, or use adamw"),
            (
                "prodigy",
                "learning_rate",
                1e-4,
                "is for prodigy a factor of",
                "leave it out, which is 1, or use at least",
            ),
            (
                "schedule_free",
                "learning_rate_schedule",
                "cosine",
                "is a schedule, in place of",
                "leave it out, or use c",
            ),
            (
                "schedule_free",
                "learning_rate_schedule",
                "linear",
                "is a schedule, in place of",
                "leave it out, or use c",
            ),
            (
                "schedule_free",
                "ema_decay",
                0.99,
                "averages weights that schedule_free has",
                "leave it out, or use adamw",
            ),
        )
    ),
    *(
        ({"per": "image", **given}, field, problem, remedy)
        for given, field, problem, remedy in (
            ({"held_out": 0.1}, "held_out", "holds out some of an adapter's images", "or use per: class"),
            ({"patience": 3}, "patience", "and an adapter of one image has none", "or use per: class"),
            (
                {"previews": 2},
                "previews",
                "each image's adapter would draw them",
                "make an image set, or use per: class",
            ),
            ({"evaluations": 3}, "evaluations", "with per: image there are neither", "or use per: class"),
            (
                {"prior_preservation": 1.0, "prior_preservation_source": "train"},
                "prior_preservation_source",
                "with per: image that is the same image",
                "use base_model, or use per: class",
            ),
            ({"method": "full"}, "method", "would be a whole UNet for each image", "use one of: lora"),
        )
    ),
    ({"method": "oft", "dropout": 0.5}, "dropout", "has no effect in PEFT's oft", "leave it out, or use boft"),
    *(
        ({"method": "lokr", field: value}, field, "is out of range", "use a value between")
        for field, values in {
            "rank": (0, -1, 1025),
            "factor": (0, -3, 1025),
            "alpha": (0.0, -1.0, math.inf, math.nan),
            "dropout": (-0.1, 0.95, math.nan),
        }.items()
        for value in values
    ),
    *(
        ({"method": "boft", "block_size": size}, "block_size", "is out of range", "use a value between 2 and 1024")
        for size in (0, 1, -4, 2048)
    ),
    *(
        ({"targets": targets}, "targets", problem, remedy)
        for targets, problem, remedy in (
            ("attenton", "is no set of layers", "did you mean 'attention'"),
            ("Attention+Feedforward", "is no set of layers", "did you mean 'attention+feedforward'"),
            ("", "matches the whole name of none", "use attention, "),
            ("to_q", "matches the whole name of none", "such as conv_in"),
            ("down_blocks", "matches the whole name of none", "use attention, "),
            (".*", "which no adapter takes", "match linear layers and convolutions alone"),
            (r".*\.norm1", "which no adapter takes", "match linear layers and convolutions alone"),
            ("conv_norm_out", "which no adapter takes", "match linear layers and convolutions alone"),
            ("(", "no regular expression of RE2 (missing ): (", "or mend the expression"),
            ("*", "no regular expression of RE2", "or mend the expression"),
            (r".*(?=\.to_q).*", "no regular expression of RE2", "or mend the expression"),
            (r"(.)\1", "no regular expression of RE2", "or mend the expression"),
            ("x{1000}{1000}", "no regular expression of RE2", "or mend the expression"),
            ("a" * (LONGEST_PATTERN + 1), "is longer than 500 characters", "use a shorter expression"),
        )
    ),
]


@pytest.mark.parametrize(("given", "field", "problem", "remedy"), REFUSALS)
def test_what_cannot_be_done_is_refused_by_field_value_and_remedy(
    builtin: BaseModel, given: dict[str, Any], field: str, problem: str, remedy: str
) -> None:
    with pytest.raises(InvalidArgument) as raised:
        planned(AdapterSettings(**given), builtin)
    [violation] = raised.value.violations
    assert violation.field == f"adapter.settings.{field}"
    name, _, index = field.rstrip("]").partition("[")
    value = given.get(name, "attention")
    assert violation.description.startswith(repr(value[int(index)] if index else value)[:110].rstrip("'"))
    assert problem in violation.description
    assert remedy in violation.description.partition(problem)[2]


def test_a_stop_is_told_of_batches_that_there_can_be(builtin: BaseModel) -> None:
    with pytest.raises(InvalidArgument) as raised:
        planned(AdapterSettings(stop_at=600, batch_size=0), builtin)
    assert [item.field for item in raised.value.violations] == ["adapter.settings.batch_size"]


def test_these_are_many_refusals() -> None:
    assert len(REFUSALS) >= 60


def test_boft_is_refused_where_its_permutations_take_more_memory_than_a_worker_has() -> None:
    settings = AdapterSettings(method="boft", block_size=4, targets=CONVOLUTIONS)
    layers = adapted_layers(CONVOLUTIONS, SD15)
    with pytest.raises(InvalidArgument, match=r"keeps 5\.1 GiB of permutations .* the largest .* of 23,040 inputs"):
        methods.check_layers(settings, layers)
    methods.check_layers(settings, adapted_layers("attention+feedforward", SD15))


@pytest.mark.parametrize(
    ("targets", "count"),
    [("attention", 3), ("attention+feedforward", 5), ("transformer", 6), (CONVOLUTIONS, 8), ("all", 12)],
)
def test_how_many_layers_a_set_has(targets: str, count: int) -> None:
    assert len(adapted_layers(targets, SD15)) == count
    assert module_names(targets, SD15) == list(TARGETS[targets])


def test_a_regular_expression_matches_whole_names() -> None:
    found = adapted_layers(r".*\.attn[12]\.to_[qk]", SD15)
    assert [layer.name.rpartition("blocks.0.")[2] for layer in found] == ["attn1.to_q", "attn2.to_k"]
    assert module_names("conv_in", SD15) == ["conv_in"]


def test_a_set_that_a_base_model_has_no_layer_of_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="means no layer of this base model's UNet; use another set"):
        adapted_layers("attention", PartLayers((Layer("conv_in", (8, 4, 3, 3)),), frozenset()))


@pytest.mark.parametrize(
    ("settings", "shape", "expected"),
    [
        (AdapterSettings(method="lora", rank=4), (320, 768), 4 * (320 + 768)),
        (AdapterSettings(method="lora", rank=4), (320, 4, 3, 3), 4 * (320 + 36)),
        (AdapterSettings(method="dora", rank=4), (320, 768), 4 * (320 + 768) + 320),
        (AdapterSettings(method="loha", rank=4), (320, 768), 2 * 4 * (320 + 768)),
        (AdapterSettings(method="loha", rank=4), (320, 64, 3, 3), 2 * 4 * (320 + 64) + 2 * 16 * 9),
        # 320 is 8 x 40, 768 is 8 x 96.
        (AdapterSettings(method="lokr", rank=4, factor=8), (320, 768), 64 + 4 * (40 + 96)),
        (AdapterSettings(method="lokr", rank=48, factor=8), (320, 768), 64 + 40 * 96),
        (AdapterSettings(method="oft", block_size=32), (320, 768), 24 * 32 * 31 // 2),
        (AdapterSettings(method="boft", block_size=4), (320, 768), 192 * 16 + 320),
    ],
)
def test_parameters_of_a_layer(settings: AdapterSettings, shape: tuple[int, ...], expected: int) -> None:
    assert methods.parameter_count(settings, [Layer("x", shape)]) == expected


@pytest.mark.parametrize(
    ("given", "scale"),
    [
        ({"method": "lora", "rank": 16}, 1.0),
        ({"method": "lora", "rank": 16, "alpha": 8}, 0.5),
        ({"method": "rslora", "rank": 16}, 1.0),
        ({"method": "rslora", "rank": 64}, 0.5),
        ({"method": "rslora", "rank": 4, "alpha": 6}, 3.0),
        ({"method": "pissa", "rank": 8}, 1.0),
        ({"method": "lokr", "rank": 4, "alpha": 1}, 0.25),
        ({"method": "oft"}, 1.0),
        ({"method": "boft"}, 1.0),
    ],
)
def test_scale(builtin: BaseModel, given: dict[str, Any], scale: float) -> None:
    settings = planned(AdapterSettings(**given), builtin)
    layers, one = planning.layers_of(settings, builtin), [Portion("", "", (0, 1), (2,), 100)]
    quantities = {item.name: item.value for item in planning.quantities(settings, builtin, one, ("a", "b"))}
    assert quantities["scale"] == pytest.approx(scale)
    assert quantities["adapted layers"] == len(layers) > 20
    assert quantities["parameters"] > 1000
    assert (quantities["adapters"], quantities["held-out images"]) == (1, 1)
    three = {item.name: item.value for item in planning.quantities(settings, builtin, 3 * one, ("a", "b"))}
    assert (three["adapters"], three["held-out images"]) == (3, 3)
    assert three["parameters"] == 3 * quantities["parameters"]


@pytest.mark.parametrize("method", METHODS)
def test_a_method_alone_is_enough(builtin: BaseModel, method: str) -> None:
    """Its other settings fit the built-in base model, whose widths are multiples of 16 and not of 32."""
    settings = planned(AdapterSettings(method=method), builtin)
    for field in OWN_FIELDS[:4]:
        assert settings.HasField(field) == (field in METHODS[method].takes)
    assert not settings.HasField("loraplus_ratio"), "without it all factors learn as fast"


def test_some_methods_learn_faster_by_default(builtin: BaseModel) -> None:
    rates = {name: planning.filled(AdapterSettings(method=name), builtin).learning_rate for name in METHODS}
    factors = {name: round(rate / rates["lora"], 6) for name, rate in rates.items()}
    assert {name: factor for name, factor in factors.items() if factor != 1} == {"loha": 3, "lokr": 10, "boft": 3}


def test_a_ratio_of_one_is_none(builtin: BaseModel) -> None:
    assert planned(AdapterSettings(loraplus_ratio=1), builtin) == planned(AdapterSettings(), builtin)


@pytest.mark.parametrize(
    ("optimizer", "learning_rate", "schedule"),
    [
        ("adamw", 6e-3, "cosine"),
        ("adamw8bit", 6e-3, "cosine"),
        ("prodigy", 1.0, "constant"),
        ("schedule_free", 6e-3, "constant"),
    ],
)
def test_what_an_optimizer_has_by_default(
    builtin: BaseModel, optimizer: str, learning_rate: float, schedule: str
) -> None:
    settings = planned(AdapterSettings(optimizer=optimizer), builtin)
    assert (settings.learning_rate, settings.learning_rate_schedule) == (pytest.approx(learning_rate), schedule)
    request = planning.canonical_request(settings, train_digest="1" * 32, base_model_digest="2" * 32)
    assert recorded_adapter_settings(request).learning_rate_schedule == schedule
    assert planned(AdapterSettings(optimizer="prodigy", learning_rate_schedule="cosine"), builtin)


def test_what_prior_preservation_costs(builtin: BaseModel) -> None:
    plain, of_train, of_base = (
        planned(AdapterSettings(images_seen=100, **options), builtin)
        for options in (
            {},
            {"prior_preservation": 1.0, "prior_preservation_source": "train"},
            {"prior_preservation": 1.0, "prior_images": 10},
        )
    )
    assert not plain.HasField("prior_prompt")
    assert of_base.prior_prompt == of_base.prompt
    assert prior_options.work(plain, 3) == (0, 0)
    assert prior_options.work(of_train, 3) == (100, 0)
    assert prior_options.work(of_base, 3) == (100, 10 * 3 * 25 * 2)


HERE, CLUSTER = {"SYNTHMIX_RAY_ADDRESS": "127.0.0.1:6379"}, {"SYNTHMIX_RAY_ADDRESS": "ray://head:10001"}


@pytest.mark.parametrize(
    ("optimizer", "package", "least"),
    [("adamw8bit", "bitsandbytes", "0.50"), ("prodigy", "prodigyopt", "1.1"), ("schedule_free", "schedulefree", "1.4")],
)
def test_an_optimizer_without_its_package_is_refused_where_that_can_be_known(
    monkeypatch: pytest.MonkeyPatch, optimizer: str, package: str, least: str
) -> None:
    settings = AdapterSettings(optimizer=optimizer)
    installed: dict[str, str] = {}

    def version(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(optimizers, "version", version)
    for found, said in (("", "have none"), ("0.49.2", "have version 0.49.2"), ("dev", "have version dev")):
        installed |= {package: found} if found else {}
        with pytest.raises(FailedPrecondition, match=f"needs the Python package {package}, version {least}") as raised:
            optimizers.check_package(settings, HERE)
        [violation] = raised.value.violations
        assert violation.field == "adapter.settings.optimizer"
        assert violation.description.startswith(repr(optimizer)) and said in violation.description
        assert (
            "install it where they are, with `pip install 'synthmix[optimizers]'`, or use adamw" in raised.value.message
        )
        assert raised.value.reason == "PACKAGE_MISSING"
        with pytest.raises(FailedPrecondition):
            optimizers.require_package(settings)
        [warning] = optimizers.check_package(settings, CLUSTER)
        assert package in warning and "will end with an error before it begins" in warning
    for found in (least, f"{least}.2", "2.0.dev1"):
        installed[package] = found
        assert optimizers.check_package(settings, HERE) == []
        optimizers.require_package(settings)
    assert len(optimizers.check_package(settings, CLUSTER)) == 1, "what is here says nothing of other machines"


def test_adamw_is_there_wherever_torch_is() -> None:
    for environment in (HERE, CLUSTER, {}):
        assert optimizers.check_package(AdapterSettings(optimizer="adamw"), environment) == []


def test_the_extra_brings_what_optimizers_need() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    packages = [entry.package for entry in OPTIMIZERS.values() if entry.package]
    assert extras["optimizers"] == [
        f"{package.name}>={'.'.join(map(str, package.least_version))}" for package in packages
    ]


@pytest.mark.parametrize("method", METHODS)
def test_a_recorded_request_says_what_was_filled_in(builtin: BaseModel, method: str) -> None:
    settings = planned(AdapterSettings(method=method, images_seen=320), builtin)
    request = planning.canonical_request(settings, train_digest="1" * 32, base_model_digest="2" * 32)
    recorded = recorded_adapter_settings(request)
    recorded.base_model = settings.base_model
    assert recorded == settings
    assert "rank" not in request["settings"], "the default is left out, as it was when it was declared"


def test_an_adapter_of_an_earlier_version_is_shown_as_it_was() -> None:
    """Its manifest says neither how many images the kept weights have seen, nor a loss on held-out ones."""
    summary = {"train_split": "splits/1/parts/train", "base_model": BUILTIN, "final_loss": 0.5, "parameter_count": 7}
    request = {"settings": {"images_seen": "4800"}, "train_split": "1" * 32, "base_model": "2" * 32}
    manifest = Manifest(
        ArtifactName(ADAPTERS, "3" * 32), {}, request, 2, (), summary, create_time="2026-01-01T00:00:00Z"
    )
    message = adapter_message(MemoryObjectStore.created(), manifest)
    assert (message.images_seen, message.settings.rank, message.settings.per) == (4800, 16, "dataset")
    assert not message.held_out_losses


def test_images_are_made_of_classes_that_have_an_adapter() -> None:
    """A class without train images has none of its own."""
    name, summary = ArtifactName(ADAPTERS, "3" * 32), {"classes": ["a", "b", "c"]}
    of_all = Manifest(name, {}, {}, 3, (), summary | {"adapters": [{"label": "", "folder": ""}]})
    of_each = [{"label": label, "folder": f"class-000{number}"} for number, label in enumerate("abc") if label != "b"]
    assert classes_made(of_all) == classes_made(Manifest(name, {}, {}, 2, (), summary)) == ["a", "b", "c"]
    assert classes_made(Manifest(name, {}, {}, 3, (), summary | {"adapters": of_each})) == ["a", "c"]


@pytest.mark.parametrize(("method", "rank"), [("lora", 16), ("loha", 16), ("none", None), ("full", None)])
def test_an_adapter_is_shown_with_a_rank_if_its_method_has_one(method: str, rank: int | None) -> None:
    settings = recorded_adapter_settings({"settings": {"method": method}})
    assert (settings.rank if settings.HasField("rank") else None) == rank


def test_what_trains_no_adapter_is_named_the_same_everywhere() -> None:
    assert set(methods.WITHOUT_ADAPTER) == set(WITHOUT_ADAPTER)
