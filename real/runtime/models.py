"""The model that a run puts on a device: a checkpoint of this machine, or random weights of a known shape."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from real.runtime.host import SHOWN, Host
from real.runtime.intake import open_checkpoint
from real.runtime.offloaded import Offloaded
from traces.kit.errors import UserError
from traces.models.devices import device_of
from traces.models.families import is_experts
from traces.models.load import Loaded
from traces.models.quantised import COMPUTED
from traces.models.shapes import DTYPES, PUBLISHED, configuration

_AUTO: Any = AutoModelForCausalLM


@dataclass(frozen=True)
class Where:
    """On what a model is to be run, and how: see :class:`Offloaded`. ``host_memory``: what the user says there is."""

    device: str = "auto"
    host_memory: int | None = None
    exact: bool = True

    def open(self, name: str, dtype: str, weights: str = "auto", layers: int | None = None) -> Offloaded:
        """The model of :func:`open_model`, its experts in host memory and the rest on the device. UserError."""
        device_of(self.device)  # a slip is told before anything is loaded
        return self.put(open_model(name, dtype, weights, layers, host=Host(self.host_memory)))

    def load(self, name: str, dtype: str) -> Loaded:
        """A checkpoint with all that belongs to it, for :meth:`put`. UserError."""
        device_of(self.device)
        return open_checkpoint(name, dtype, Host(self.host_memory))

    def put(self, model: Any) -> Offloaded:
        """Take the experts of a model that is loaded into host memory, and the rest to the device. UserError."""
        return Offloaded(model, device_of(self.device), host=Host(self.host_memory), exact=self.exact)


def open_model(name: str, dtype: str, weights: str, layers: int | None = None, *, host: Host = SHOWN) -> Any:
    """A model on the CPU, in evaluation mode, its experts where a store takes them as they are, or without memory if
    their weights are random.

    `name`: "reference", a folder or a model of the local cache; with ``weights=random`` also a name of conf/model.
    `layers`: MoE layers of the trace, for a shape whose depth conf/model gives and transformers' defaults do not.
    """
    if weights == "auto":
        if name in PUBLISHED:
            raise UserError(
                f"model={name}: its checkpoint is not shipped; allowed: weights=random, or the folder of a checkpoint"
            )
        return open_checkpoint(name, dtype, host).model
    return _random(name, dtype, layers)


def _random(name: str, dtype: str, layers: int | None) -> Any:
    config = configuration(name)
    text = config.get_text_config()
    if layers is not None and name in PUBLISHED:
        dense = int(getattr(text, "first_k_dense_replace", 0) or 0)
        text.num_hidden_layers = layers + dense
        for key in ("layer_types", "mlp_layer_types"):
            if getattr(text, key, None):
                setattr(text, key, (list(getattr(text, key)) * (layers + dense))[: layers + dense])
    stated = getattr(config, "dtype", None)
    kind = DTYPES[dtype] if dtype != "auto" else stated if stated in COMPUTED else torch.bfloat16
    with torch.device("meta"):
        model = _AUTO.from_config(config, dtype=kind).eval()
    generator = torch.random.get_rng_state()
    torch.manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if not is_experts(module):
                module.to_empty(device="cpu", recurse=False)
                model._init_weights(module)
    torch.random.set_rng_state(generator)
    return model
