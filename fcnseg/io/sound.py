"""Copy or re-encode the sound of one file into the video of another."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from fcnseg.files import utf8_name

_LEAD_IN = 0.1  # maximum encoder delay before 0, in seconds; earlier sound is outside an edit list

_RATE = 48000  # sample rate of re-encoded sound

_GAP = _RATE // 10  # minimum missing samples that are a gap, not rounding

_JUMP = 0.5  # minimum seconds that timestamps go back where another recording begins

_ENCODERS = ("aac", "libopus")  # the first one that the container supports

_KEPT_TAGS = {"language", "title"}

_MOV_LANGUAGES = {
    "deu": "ger", "nld": "dut", "swe": "sve", "ell": "gre", "isl": "ice", "zho": "chi",
    "sqi": "alb", "mkd": "mac", "hye": "arm", "kat": "geo", "bod": "tib", "msa": "may",
    "mya": "bur", "cym": "wel", "eus": "baq", "fre": "fra", "cze": "ces", "slo": "slk",
    "rum": "ron", "hrv": "hr ", "srp": "sr ",
}  # fmt: skip
"""ISO 639-2 -> what FFmpeg calls QuickTime's languages; a MOV file has no others."""

_NAMES = {"opus": "libopus"}  # FFmpeg's name of the decoder -> of the encoder


class Sound:
    """The sound streams of a file, muxed with the frames.

    whole: to its own end, beyond that of the frames. omitted: what is omitted and why; "" for none.
    """

    def __init__(
        self, source: Any, output: Any, start: float, clock: Sequence[float], *, whole: bool = False
    ) -> None:
        self.omitted = ""
        self._source, self._output, self._whole = source, output, whole
        self._start, self._clock = start, clock
        self._reached: dict[int, tuple[int, float]] = {}  # stream -> last segment and time
        self._last: dict[int, int] = {}  # copied stream -> last dts
        self._copied: dict[int, Any] = {}  # index of the source's stream -> the output's
        self._encoded: dict[int, _Reencoder] = {}
        self._broken = 0
        for stream in source.streams.audio:
            self._add(stream)
        taken = [s for s in source.streams.audio if s.index in {**self._copied, **self._encoded}]
        self._packets: Iterator[Any] = source.demux(taken) if taken else iter(())
        self._waiting: Any = None

    @classmethod
    def of(
        cls,
        path: Path,
        output: Any,
        start: float,
        clock: Sequence[float] = (),
        *,
        whole: bool = False,
    ) -> Sound | None:
        """The sound of `path` from `start` seconds on; None if it has none.

        clock: see FrameReader; () if unknown.
        """
        import av

        try:
            with utf8_name(path) as name:
                source = av.open(name, metadata_errors="replace")
        except (av.FFmpegError, ValueError):
            return None
        video = source.streams.best("video")
        if not source.streams.audio or video is None:
            source.close()
            return None
        began = float((video.start_time or 0) * (video.time_base or 0))
        return cls(source, output, start, clock or (began,), whole=whole)

    def copy(self, *, until: float) -> None:
        """Write the sound before `until` seconds of the output."""
        import av

        try:
            while (packet := self._waiting or next(self._packets, None)) is not None:
                self._waiting = packet
                if packet.dts is not None and packet.pts is not None:
                    segment, time = self._place(packet)
                    if time >= until or self._is_ahead(packet, segment, time):
                        return
                    self._reached[packet.stream.index] = segment, time
                    self._write(packet, self._clock[segment] + self._start)
                self._waiting = None
        except (av.FFmpegError, ValueError) as error:
            self._packets, self._waiting = iter(()), None
            self._omit("the rest of the sound", str(getattr(error, "strerror", error)))

    def close(self) -> None:
        """Close the source file."""
        self._source.close()

    def finish(self, end: float, *, complete: bool = True) -> None:
        """Write the rest and flush encoders; the frames end at `end` seconds.

        complete: False if frames are missing.
        """
        import av

        self.copy(until=math.inf if complete and self._whole else end)
        packet = self._waiting
        short = packet and end - self._reached.get(packet.stream.index, (0, 0.0))[1] > _JUMP
        if short and self._is_ahead(packet, *self._place(packet)):
            self._omit("the rest of the sound", "its clock goes back, that of the frames not")
        for encoder in self._encoded.values():
            try:
                self._output.mux(encoder.finish())
            except (av.FFmpegError, ValueError) as error:
                self._omit("the end of the sound", str(getattr(error, "strerror", error)))
            if not encoder.written:
                self._omit("the sound", "none of it can be decoded")
        if self._broken:
            self._omit(f"{self._broken} pieces of the sound", "they are broken")

    def _add(self, stream: Any) -> None:
        """Copy a stream if the container supports its codec; else re-encode it."""
        import av

        context = stream.codec_context
        name = context.name if context is not None else "unknown to FFmpeg"
        supported = self._output.supported_codecs
        try:
            known = {name, _NAMES.get(name, name)} & set(supported)
            if known and _can_hold(self._output.format.name, stream):
                made = self._output.add_stream_from_template(stream)
                self._copied[stream.index] = made
            elif context is not None and context.is_decoder:
                encoder = next(e for e in _ENCODERS if e in supported)
                self._encoded[stream.index] = _Reencoder(self._output, encoder)
                made = self._output.streams.audio[-1]
            else:
                self._omit("the sound", f"its codec is {name}")
                return
            kept = {k: v for k, v in stream.metadata.items() if k in _KEPT_TAGS}
            if self._output.format.name == "mov" and "language" in kept:
                kept["language"] = _MOV_LANGUAGES.get(kept["language"], kept["language"])
            made.metadata.update(kept)
        except (av.FFmpegError, ValueError, StopIteration):
            self._omit("the sound", f"it can't be written here; its codec is {name}")

    def _place(self, packet: Any) -> tuple[int, float]:
        """The clock segment of a packet, and its time in the output in seconds.

        The current segment or the next one, whichever continues the sound best.
        """
        stamp = float(packet.pts * packet.time_base) - self._start
        segment, reached = self._reached.get(packet.stream.index, (0, 0.0))
        times = [stamp - began for began in self._clock[segment : segment + 2]]
        if packet.stream.index in self._reached and len(times) > 1:
            on = abs(times[1] - reached) < abs(times[0] - reached)
            return segment + on, times[on]
        return segment, times[0]

    def _is_ahead(self, packet: Any, segment: int, time: float) -> bool:
        """Whether a packet belongs to a segment that the frames have not reached."""
        reached = self._reached.get(packet.stream.index, (0, time))[1]
        return time < reached - _JUMP and segment == len(self._clock) - 1

    def _write(self, packet: Any, origin: float) -> None:
        import av

        stamp, index = float(packet.pts * packet.time_base), packet.stream.index
        time = stamp - origin
        if index in self._copied:
            shift = round(origin / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            early = time < (0 if origin else -_LEAD_IN)
            if early or packet.dts <= self._last.get(index, packet.dts - 1):  # overlapping
                return
            self._last[index] = packet.dts
            packet.stream = self._copied[index]
            self._output.mux(packet)
        elif time >= 0 or not origin:
            try:
                frames = packet.decode()
            except av.FFmpegError:
                self._broken += 1
                return
            for frame in frames:
                began = stamp if frame.time is None else float(frame.time)
                self._output.mux(self._encoded[index].encode(frame, max(began - origin, 0.0)))

    def _omit(self, what: str, why: str) -> None:
        self.omitted += f"{'; ' if self.omitted else ''}{what} is left out: {why}"


def _can_hold(container: str, stream: Any) -> bool:
    """Whether a stream can be copied into a container, found by trying.

    The container's list of codecs is not sufficient: MP4 requires a channel layout for PCM, MOV
    does not accept Opus. An error while writing would end the video.
    """
    import av

    early = stream.codec_context is not None and stream.codec_context.name.startswith("pcm_")
    options = {"movflags": "empty_moov"} if early and container in ("mp4", "mov") else {}
    try:
        with av.open(io.BytesIO(), "w", format=container, options=options) as file:
            file.add_stream_from_template(stream)
            file.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    return True


class _Reencoder:
    """Encodes decoded sound with another codec; gaps in timestamps are filled with silence."""

    def __init__(self, output: Any, codec: str) -> None:
        import av

        self.written = self._taken = 0
        self._stream: Any = output.add_stream(codec, rate=_RATE, layout="stereo")
        layout = self._stream.codec_context.format.name
        self._resampler: Any = av.AudioResampler(format=layout, layout="stereo", rate=_RATE)
        self._queue: Any = av.AudioFifo()
        self._start: int | None = None

    def encode(self, frame: Any, time: float) -> list[Any]:
        """Packets of a frame that starts at `time` seconds."""
        if self._start is None:
            self._start = round(time * _RATE)
        packets: list[Any] = []
        missing = round(time * _RATE) - self._start - self._taken
        while missing > _GAP:
            self._take([self._silence(min(missing, _RATE))])
            missing -= _RATE
            packets += self._packets(flush=False)
        frame.pts = None
        self._take(self._resampler.resample(frame))
        return packets + self._packets(flush=False)

    def finish(self) -> list[Any]:
        """The last packets."""
        if self._start is None:
            return []
        self._take(self._resampler.resample(None))
        return [*self._packets(flush=True), *self._stream.encode(None)]

    def _take(self, frames: list[Any]) -> None:
        for frame in frames:
            frame.pts = None
            self._taken += frame.samples
            self._queue.write(frame)

    def _silence(self, samples: int) -> Any:
        import av

        form = self._stream.codec_context.format
        shape = (2, samples) if form.is_planar else (1, 2 * samples)
        values = np.zeros(shape, np.float32 if form.name.startswith("flt") else np.int16)
        frame = av.AudioFrame.from_ndarray(values, form.name, "stereo")
        frame.sample_rate = _RATE
        return frame

    def _packets(self, *, flush: bool) -> list[Any]:
        size = self._stream.codec_context.frame_size or 1024
        packets = []
        while frame := self._queue.read(size, partial=flush):
            frame.pts = (self._start or 0) + self.written
            frame.time_base = Fraction(1, _RATE)
            self.written += frame.samples
            packets += self._stream.encode(frame)
        return packets
