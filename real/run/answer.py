"""The text of an answer while its tokens come, by the library's own streamer."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import TextStreamer

from real.runtime.generate import End, Served


class Answer:
    """The text of one answer, as far as it is certain."""

    def __init__(self, tokenizer: Any, stops: Sequence[str]) -> None:
        self.stops = stops
        self._made: list[str] = []  # the pieces that the last token gave
        self._held = ""
        streamer: Any = TextStreamer(tokenizer, skip_special_tokens=True)
        streamer.on_finalized_text = lambda text, stream_end=False: self._made.append(text)
        self._streamer = streamer

    def add(self, token: int, end: End | None) -> str:
        """Take the next token; returns the text that is certain by it. A stop string that ended it is not in it."""
        self._streamer.put(torch.tensor([token]))
        if end is not None:
            self._streamer.end()
        text = self._held + "".join(self._made)
        self._made.clear()
        if end == "stop":
            places = [place for stop in self.stops if (place := text.find(stop)) >= 0]
            text = text[: min(places)] if places else text
        self._held = "" if end is not None else text[len(text) - self._begun(text) :]
        return text[: len(text) - len(self._held)]

    def rest(self) -> str:
        """What was held back, of an answer that does not go on."""
        self._streamer.end()
        text, self._held = self._held + "".join(self._made), ""
        self._made.clear()
        return text

    def _begun(self, text: str) -> int:
        """Characters at the end of ``text`` that a stop string may begin with."""
        longest = max((len(stop) for stop in self.stops), default=1) - 1
        lengths = range(min(longest, len(text)), 0, -1)
        return next((n for n in lengths if any(stop.startswith(text[-n:]) for stop in self.stops)), 0)


def text_of(request: Served, tokenizer: Any, stops: Sequence[str]) -> str:
    """The whole of it, or of what there is."""
    answer = Answer(tokenizer, stops)
    last = len(request.made) - 1
    text = "".join(answer.add(token, request.end if i == last else None) for i, token in enumerate(request.made))
    return text if request.end is not None else text + answer.rest()
