"""A scheduler written a second time, from the words of the disciplines alone: plain lists of tokens and of blocks.

It shares nothing with the engine's. A request is what it knows (its tokens, one by one) and what lies in its blocks
(the same, in order); blocks are things that lie in a pool or in a request's hands.
"""

from dataclasses import dataclass, field

from sim.workload.online.schedule import Arrival, Limits


@dataclass
class Request:
    arrival: Arrival
    known: list[str]
    cached: list[str] = field(default_factory=list)
    ever: set[str] = field(default_factory=set)
    hands: list[int] = field(default_factory=list)
    """Blocks."""
    turn: int = 0

    @property
    def id(self) -> int:
        return self.arrival.id

    @property
    def outputs(self) -> int:
        return sum(token[0] == "o" for token in self.known)

    @property
    def missing(self) -> list[str]:
        return self.known[len(self.cached) :]

    @property
    def decoding(self) -> bool:
        return self.outputs > 0 and len(self.missing) == 1


class World:
    """``step`` says what is computed as {id: tokens}, with who was admitted and preempted; ``end`` who is done."""

    def __init__(self, discipline: str, limits: Limits) -> None:
        self.discipline, self.limits = discipline, limits
        self.pool = list(range(1000 if limits.kv_blocks is None else limits.kv_blocks))
        self.queue: list[Request] = []
        self.run: list[Request] = []
        self.now: dict[int, list[str]] = {}
        self.ticks = 0

    def arrive(self, arrival: Arrival) -> None:
        self.queue.append(Request(arrival, [f"p{i}" for i in range(arrival.prompt_tokens)]))

    def step(self) -> tuple[dict[int, list[str]], list[int], list[int]]:
        admitted: list[int] = []
        preempted: list[int] = []
        self.now = {}
        while not self.now and (self.queue or self.run):  # an empty step takes no time, so the next one begins
            self.once(admitted, preempted)
        for i in [i for i in admitted if i not in self.now]:  # who came and went in this step was never here
            admitted.remove(i)
            del preempted[len(preempted) - 1 - preempted[::-1].index(i)]
        return self.now, admitted, preempted

    def end(self) -> list[int]:
        ended = []
        for request in list(self.run):
            if request.id not in self.now:
                continue
            request.cached += self.now[request.id]
            request.ever |= set(self.now[request.id])
            if not request.missing:
                request.known.append(f"o{request.outputs + 1}")
            if request.outputs == request.arrival.output_tokens:
                ended.append(request.id)
                self.take_blocks(request)
                self.run.remove(request)
        return [i for i in self.now if i in ended]

    # The disciplines.

    def once(self, admitted: list[int], preempted: list[int]) -> None:
        left = self.limits.max_num_batched_tokens
        decoding = [r for r in self.run if r.decoding]
        prompts = [r for r in self.run if not r.decoding]
        match self.discipline:
            case "fcfs" | "priority":
                left, gone = self.serve(list(self.run), left, preempted)
                if not gone:
                    self.admit(left, admitted)
            case "decode_first_round_robin":
                self.take_turns(left, admitted, preempted)
            case "prefill_first":
                fits = True
                for request in prompts:
                    fits = fits and (left <= 0 or self.hand_out(request, self.part(request, left)))
                    left = self.limits.max_num_batched_tokens - sum(map(len, self.now.values()))
                if fits:
                    self.admit(left, admitted)
                if not self.now:
                    self.serve(decoding or prompts, left, preempted)
            case "static":
                if not self.run:
                    while self.queue and len(self.run) < self.limits.max_num_seqs and self.reserve(self.queue[0]):
                        self.run.append(self.queue.pop(0))
                    prompts = list(self.run)
                for request in prompts or list(self.run):
                    part = self.part(request, left)
                    if not part or self.cut(request, left):
                        break
                    if not request.cached:
                        admitted.append(request.id)
                    self.now[request.id] = part
                    left -= len(part)

    def take_turns(self, left: int, admitted: list[int], preempted: list[int]) -> None:
        while self.queue and len(self.run) < self.limits.max_num_seqs:
            self.run.append(self.queue.pop(0))
            self.run[-1].turn = self.tick()
        order = sorted(self.run, key=lambda r: (not r.decoding, r.turn))
        stuck = gone = False
        for request in order:
            if request not in self.run:
                continue
            if request.hands:
                left, lost = self.serve([request], left, preempted)
                gone = gone or lost
                if not request.hands:
                    break
            elif left and not stuck and not gone:
                part = self.part(request, left)
                stuck = self.cut(request, left) or not self.hand_out(request, part)
                if not stuck:
                    admitted.append(request.id)
                    left -= len(part)
        for request in order:
            if request.id in self.now and not request.decoding:
                request.turn = self.tick()

    def tick(self) -> int:
        self.ticks += 1
        return self.ticks

    def serve(self, requests: list[Request], left: int, preempted: list[int]) -> tuple[int, bool]:
        gone: list[Request] = []
        for request in requests:
            if request in gone or left <= 0:
                continue
            part = self.part(request, left)
            while not self.hand_out(request, part):
                loser = self.loser()
                left += len(self.now.pop(loser.id, []))
                self.put_back(loser)
                gone.append(loser)
                preempted.append(loser.id)
                if loser is request:
                    return left, True
            left -= len(part)
        return left, bool(gone)

    def admit(self, left: int, admitted: list[int]) -> None:
        while left > 0 and self.queue and len(self.run) < self.limits.max_num_seqs:
            request = min(self.queue, key=self.rank) if self.discipline == "priority" else self.queue[0]
            part = self.part(request, left)
            if self.cut(request, left) or not self.hand_out(request, part):
                return
            left -= len(part)
            self.queue.remove(request)
            self.run.append(request)
            admitted.append(request.id)

    # What they are made of.

    @staticmethod
    def rank(request: Request) -> tuple[int, int, int]:
        return request.arrival.priority, request.arrival.time_ns, request.id

    def part(self, request: Request, left: int) -> list[str]:
        part = request.missing
        if self.limits.layer_major:  # all of it, however much is left of something
            return part if left > 0 else []
        if self.limits.long_prefill_token_threshold:
            part = part[: self.limits.long_prefill_token_threshold]
        return part[:left]

    def cut(self, request: Request, left: int) -> bool:
        """Whether the budget would cut it, and nothing may be cut."""
        chunk = request.missing[: self.limits.long_prefill_token_threshold or None]
        return not self.limits.enable_chunked_prefill and len(chunk) > left

    def hand_out(self, request: Request, part: list[str]) -> bool:
        if not self.blocks_for(request, len(request.cached) + len(part)):
            return False
        self.now[request.id] = part
        return True

    def reserve(self, request: Request) -> bool:
        return self.blocks_for(request, request.arrival.prompt_tokens + request.arrival.output_tokens - 1)

    def blocks_for(self, request: Request, tokens: int) -> bool:
        taken: list[int] = []
        while (len(request.hands) + len(taken)) * self.limits.block_size < tokens:
            if not self.pool:
                self.pool += taken
                return False
            taken.append(self.pool.pop())
        request.hands += taken
        return True

    def take_blocks(self, request: Request) -> None:
        self.pool += request.hands
        request.hands = []

    def loser(self) -> Request:
        if self.discipline == "priority":
            return max(self.run, key=self.rank)
        if self.discipline == "decode_first_round_robin":
            holders = [r for r in self.run if r.hands]
            prompts = [r for r in holders if not r.decoding]
            return max(prompts or holders, key=lambda r: r.id)  # ids are in the order of arrival
        if self.discipline == "prefill_first":
            least = min(r.outputs for r in self.run)
            few = [r for r in self.run if r.outputs == least]
            longest = max(r.arrival.prompt_tokens for r in few)
            return [r for r in few if r.arrival.prompt_tokens == longest][-1]
        return self.run[-1]

    def put_back(self, request: Request) -> None:
        self.take_blocks(request)
        request.cached = []
        self.run.remove(request)
        self.queue.insert(len(self.queue) if self.discipline == "prefill_first" else 0, request)
