"""Spans of the stages lie below their request; a call that several requests share keeps the trace, and nothing else, of the first."""

from contextvars import ContextVar

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from l2d_ray.serve.messages import Completeness, RecommendationAnswer, TimingsMs
from l2d_ray.serve.on_ray.tracing import STAGES, SharedCalls, note_stages

ANSWER = RecommendationAnswer(
    items=[],
    decoder="global",
    memory_version=3,
    model_fingerprint="f",
    complete=Completeness(shards_ok=1, shards_total=1),
    timings_ms=TimingsMs(tokenize=1, encode=5, search=3, merge=2, total=11),
    request_id="r",
)


@pytest.fixture(scope="module")
def spans() -> InMemorySpanExporter:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


def test_each_stage_has_its_span_in_order_of_time(spans: InMemorySpanExporter):
    with trace.get_tracer("test").start_as_current_span("request") as request:
        note_stages(ANSWER)
    found = {span.name: span for span in spans.get_finished_spans()}
    assert found.keys() == {"request", *STAGES}
    assert {found[stage].parent.span_id for stage in STAGES} == {request.get_span_context().span_id}
    times = [(found[stage].start_time, found[stage].end_time) for stage in STAGES]
    assert [round((end - start) / 1e6) for start, end in times] == [1, 5, 3, 2]
    assert [end for _, end in times[:-1]] == [start for start, _ in times[1:]]
    spans.clear()
    note_stages(ANSWER)
    assert spans.get_finished_spans() == ()


def test_a_shared_call_has_the_trace_and_not_the_request(spans: InMemorySpanExporter):
    request_of: ContextVar[str] = ContextVar("request_of", default="nobody")
    shared = SharedCalls()
    request_of.set("ann")
    assert shared().run(request_of.get) == "nobody"
    with trace.get_tracer("test").start_as_current_span("request") as request:
        context = shared()
    assert context.run(request_of.get) == "nobody"
    assert context.run(trace.get_current_span) is request
