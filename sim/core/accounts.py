"""The accounts of rule 5: integers that add up, per run, per phase and per layer; and what lossy policies state."""

from dataclasses import dataclass, field

PHASES = ("prefill", "decode")
CLASSES = (*PHASES, "shared")
"""Of lookups, by whose rows chose the expert: a prompt's, a decode row, or both in one event."""
KINDS = (*PHASES, "mixed")
"""Of passes, by the rows that they have."""
HIT_KINDS = ("lookups", "recall", "resident", "complete", "bytes_ready", "bytes_demanded", "predicted", "fetched")
STALLS = ("demand_copy", "late_prefetch", "queueing", "predictor", "cpu_experts", "disk_read")
FATES = ("useful", "late", "useless", "cancelled", "in_flight_at_end")

PRECOMPUTED_FATES = ("used", "wasted", "dropped")
"""Of experts that the host was to begin before their gate: computed by it for their event; begun, and not wanted there;
not begun by then, and not wanted."""

QUALITY = ("kept_mass", "gate_mass", "slots", "substituted", "skipped", "low_precision", "unstated")

# Indices into a hit row, in the order of HIT_KINDS. All but the last two are over lookups; ``predicted`` counts the
# experts that were predicted for the event in time, and ``fetched`` those of them that were complete when its gate had
# run, used or not. ``recall`` of the lookups were predicted: so many of the predicted were used.
LOOKUPS, RECALL, RESIDENT, COMPLETE, BYTES_READY, BYTES_DEMANDED, PREDICTED, FETCHED = range(8)
# Of the quality sums: the first ones are the fields of policies.api.Routing, in its order.
KEPT_MASS, GATE_MASS, SLOTS, SUBSTITUTED, SKIPPED, LOW_PRECISION, UNSTATED = range(7)
PREDICTOR, CPU_EXPERTS, DISK_READ = 3, 4, 5
PREFILL, DECODE, SHARED = range(3)
MIXED = SHARED
USEFUL, LATE_FATE, USELESS, CANCELLED, IN_FLIGHT = range(5)
USED, WASTED, DROPPED = range(3)


@dataclass(slots=True)
class GpuAccounts:
    """What one of several GPUs did in the window. Its compute, stalls, waits for peers and idle time are all of it."""

    lookups: int = 0
    complete: int = 0
    copied_bytes: int = 0
    link_busy_ns: int = 0
    """Summed over the lanes of its link."""
    compute_ns: int = 0
    """On GPU 0 the dense part is within."""
    expert_ns: int = 0
    """Of these, the experts'."""
    stall_ns: list[int] = field(default_factory=lambda: [0] * len(STALLS))
    peer_ns: int = 0
    """Activations on their way to it and back."""
    idle_ns: int = 0
    """Nothing was asked of it, or it waited for other GPUs to end the layer."""

    @property
    def misses(self) -> int:
        """Lookups that were not complete."""
        return self.lookups - self.complete


@dataclass(slots=True)
class PageCacheAccounts:
    """Who served what was read below host memory, in the window: reads are of chunks."""

    reads: int = 0
    """From the page cache, as all that follows without ``disk``."""
    nbytes: int = 0
    disk_reads: int = 0
    """From the drive."""
    disk_bytes: int = 0


@dataclass(slots=True)
class TierAccounts:
    """What went through a host memory that does not hold all experts, in the window."""

    lookups: int = 0
    """Loads, each when it first took or wanted something of the host."""
    hits: int = 0
    """Of these, whole in host memory then."""
    asked_bytes: int = 0
    """Of these loads."""
    ready_bytes: int = 0
    """Of these, in host memory then."""
    demand_bytes: int = 0
    """Handed to the disk because a gate wanted them."""
    speculative_bytes: int = 0
    """Because a prediction did."""
    returned_bytes: int = 0
    """Written back from the GPU, by its exclusive tier."""
    dropped_bytes: int = 0
    """Given up for others."""
    moved_bytes: int = 0
    """Left to the GPU, by an exclusive tier."""
    start_bytes: int = 0
    """There at the beginning, what was being read included."""
    end_bytes: int = 0
    peak_bytes: int = 0
    busy_ns: int = 0
    """Of the disk, summed over its lanes."""
    page_cache: PageCacheAccounts | None = None
    """Where the machine has one."""

    @property
    def read_bytes(self) -> int:
        return self.demand_bytes + self.speculative_bytes

    def sides(self) -> dict[str, tuple[int, int]]:
        """What must be equal."""
        came, cache = self.start_bytes + self.read_bytes + self.returned_bytes, self.page_cache
        sides = {"bytes of host memory": (came, self.end_bytes + self.dropped_bytes + self.moved_bytes)}
        if cache is not None:
            sides["bytes read"] = self.read_bytes, cache.nbytes + cache.disk_bytes
        return sides


@dataclass(slots=True)
class VersionAccounts:
    """What of the lookups, hits, loads and bytes was of one version, where experts have several."""

    lookups: int = 0
    complete: int = 0
    tokens: int = 0
    """Slots (token, choice) that were computed in it."""
    loads: int = 0
    """Loads whose first chunk was handed to the link in the window."""
    copied_bytes: int = 0


@dataclass(slots=True)
class Accounts:
    """Counters of one measured window. The core counts experts and bytes, the machine counts nanoseconds.

    With several GPUs, time is that of the slowest in each layer; ``by_gpu`` has what each of them did.
    """

    n_layers: int
    gpus: int = 1
    versions: int = 0
    """In how many an expert is there; 0: in the model's own alone."""
    hits: list[list[list[int]]] = field(init=False)
    """[class][layer][hit kind]."""
    quality: list[list[float]] = field(init=False)
    """[phase][quality], a mixed pass being prefill: sums of what the policy states in its routings; ``unstated``:
    events of a lossy one without."""
    fates: list[int] = field(init=False)
    """Speculative loads by fate."""
    fate_bytes: list[int] = field(init=False)
    issued: int = 0
    demand_bytes: int = 0
    speculative_bytes: int = 0
    predicts: bool = False
    """Whether the policy declared any prediction (recall is null otherwise)."""
    compute_ns: int = 0
    policy_ns: int = 0
    """Of compute: the policy's own time, where the profile charges one."""
    stall_ns: list[list[list[int]]] = field(init=False)
    """[kind][layer][stall kind]."""
    pass_ns: list[int] = field(init=False)
    """[kind]: what passes took, all included; of the simulated machine alone."""
    idle_ns: int = 0
    """Nobody had arrived whom a pass could serve."""
    link_busy_ns: int = 0
    """Summed over the link's lanes."""
    host_ns: int = 0
    """What the host's workers computed, activations there and back included; no part of ``compute_ns``."""
    host_lookups: int = 0
    peer_ns: int = 0
    """Activations on their way between GPUs, no part of ``compute_ns``."""
    by_gpu: list[GpuAccounts] = field(init=False)
    """Of several GPUs; of one there is nothing to add."""
    by_version: list[VersionAccounts] = field(init=False)
    """Of several versions, the model's own first; of one there is nothing to add."""
    precomputed: int = 0
    """Experts that the host was to begin before their gate."""
    precomputed_fates: list[int] = field(init=False)
    """These by what became of them."""
    stale: list[int] = field(init=False)
    """[phase]: slots (token, choice) of those that were used: computed from the hidden state of the layer before."""
    tier: TierAccounts | None = None
    """Where the host does not hold all experts."""
    start_ns: int = 0
    end_ns: int = 0

    def __post_init__(self) -> None:
        self.hits = [[[0] * len(HIT_KINDS) for _ in range(self.n_layers)] for _ in CLASSES]
        self.quality = [[0] * len(QUALITY) for _ in PHASES]
        self.fates = [0] * len(FATES)
        self.fate_bytes = [0] * len(FATES)
        self.precomputed_fates = [0] * len(PRECOMPUTED_FATES)
        self.stale = [0] * len(PHASES)
        self.stall_ns = [[[0] * len(STALLS) for _ in range(self.n_layers)] for _ in KINDS]
        self.pass_ns = [0] * len(KINDS)
        self.by_gpu = [GpuAccounts() for _ in range(self.gpus)] if self.gpus > 1 else []
        self.by_version = [VersionAccounts() for _ in range(self.versions)]

    @property
    def causes(self) -> tuple[str, ...]:
        """Names of the stalls that this machine can have, a beginning of STALLS."""
        return STALLS if self.tier is not None else STALLS[:DISK_READ]

    def check(self) -> None:
        """Assert the sums of rule 5. Raises AssertionError with the two sides."""
        sides = {
            "speculative loads": (self.issued, sum(self.fates)),
            "experts precomputed": (self.precomputed, sum(self.precomputed_fates)),
            "speculative bytes": (self.speculative_bytes, sum(self.fate_bytes)),
            "wall time": (self.wall_ns, self.compute_ns + sum(self.stall_row()) + self.peer_ns + self.idle_ns),
        }
        if self.tier is not None:
            sides |= self.tier.sides()
        if any(self.pass_ns):
            sides["time of passes"] = self.wall_ns, sum(self.pass_ns) + self.idle_ns
        for i, gpu in enumerate(self.by_gpu):
            sides[f"time of GPU {i}"] = self.wall_ns, gpu.compute_ns + sum(gpu.stall_ns) + gpu.peer_ns + gpu.idle_ns
        if self.by_gpu:
            copied = sum(gpu.copied_bytes for gpu in self.by_gpu)
            sides["bytes of all GPUs"] = copied, self.demand_bytes + self.speculative_bytes
            sides["lookups of all GPUs"] = sum(gpu.lookups for gpu in self.by_gpu), self.hit_row()[LOOKUPS]
            sides["hits of all GPUs"] = sum(gpu.complete for gpu in self.by_gpu), self.hit_row()[COMPLETE]
            sides["copying of all GPUs"] = sum(gpu.link_busy_ns for gpu in self.by_gpu), self.link_busy_ns
        if self.by_version:
            copied, row = sum(each.copied_bytes for each in self.by_version), self.hit_row()
            low = sum(each.tokens for each in self.by_version[1:])
            sides["bytes of all versions"] = copied, self.demand_bytes + self.speculative_bytes
            sides["lookups of all versions"] = sum(each.lookups for each in self.by_version), row[LOOKUPS]
            sides["hits of all versions"] = sum(each.complete for each in self.by_version), row[COMPLETE]
            sides["tokens in a lower precision"] = low, int(self.quality_row()[LOW_PRECISION])
        for what, (left, right) in sides.items():
            if left != right:
                raise AssertionError(f"the accounts do not add up: {what}: {left} != {right}")
        row = self.hit_row()
        if not max(row[RECALL], row[FETCHED]) <= row[PREDICTED]:
            raise AssertionError(
                f"the accounts do not add up: of {row[PREDICTED]} predicted, {row} were used and fetched"
            )

    @property
    def wall_ns(self) -> int:
        """The measured window."""
        return self.end_ns - self.start_ns

    def hit_row(self, phase: int | None = None) -> list[int]:
        """Sum of the hit rows over layers, of one class or of all."""
        return _total(self.hits, phase)

    def stall_row(self, phase: int | None = None) -> list[int]:
        """Stalled nanoseconds by cause (:attr:`causes`), over layers, of one kind of pass or of all."""
        return _total(self.stall_ns, phase)[: len(self.causes)]

    def quality_row(self, phase: int | None = None) -> list[float]:
        """The quality sums, of one phase or of both."""
        rows = self.quality if phase is None else [self.quality[phase]]
        return [sum(column) for column in zip(*rows, strict=True)]


def _total(rows: list[list[list[int]]], phase: int | None) -> list[int]:
    phases = rows if phase is None else [rows[phase]]
    return [sum(column) for column in zip(*(row for layers in phases for row in layers), strict=True)]
