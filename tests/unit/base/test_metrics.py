"""Histograms, and the text in which metrics are told, as a real parser of it reads them."""

import pytest

from perdure.base.metrics import Family, Histogram, counter, exposition, gauge, seconds

parser = pytest.importorskip("prometheus_client.parser", reason="prometheus-client is missing")
open_metrics = pytest.importorskip("prometheus_client.openmetrics.parser")


def _read(families, *, is_open_metrics=False):
    text = exposition(families, {"process": "web-1"}, is_open_metrics=is_open_metrics).decode()
    read = (open_metrics if is_open_metrics else parser).text_string_to_metric_families(text)
    return {family.name: family for family in read}


@pytest.mark.parametrize("is_open_metrics", [False, True])
def test_a_parser_reads_back_what_was_told(is_open_metrics):
    waits = seconds()
    waits.add(0.001)
    families = [
        counter("perdure_turns", 'Of "all" kinds,\nwith a \\.', 3),
        gauge("perdure_links", "Open.", 1.5),
        Family("perdure_wait_seconds", "histogram", "Waits.", [({"type": 'a"b\\c\nd'}, waits)]),
    ]
    read = _read(families, is_open_metrics=is_open_metrics)
    assert [(s.name, s.value) for s in read["perdure_turns"].samples] == [
        ("perdure_turns_total", 3)
    ]
    assert read["perdure_turns"].type == "counter"
    assert read["perdure_links"].samples[0].value == 1.5
    told = read["perdure_wait_seconds"].samples
    assert {s.labels["type"] for s in told} == {'a"b\\c\nd'}
    assert all(s.labels["process"] == "web-1" for s in told)
    assert next(s.value for s in told if s.name.endswith("_count")) == 1
    assert next(s.value for s in told if s.name.endswith("_sum")) == 0.001


def test_every_value_is_in_the_bucket_that_ends_above_it():
    histogram = seconds()
    for value_s in (0.0, -1.0, 3e-6, 100e-6, 0.02, 1.0, 1e6):
        histogram.add(value_s)
    buckets = dict(histogram.buckets())
    assert list(buckets.values()) == sorted(buckets.values())
    assert buckets[float("inf")] == histogram.count == 7
    for end, count in list(buckets.items())[:-1]:
        assert count == sum(value_s < end for value_s in (0, 0, 3e-6, 100e-6, 0.02, 1.0, 1e6))


def test_a_value_beyond_all_buckets_is_only_counted_in_the_last():
    histogram = Histogram(last=4)
    histogram.add(10**30)
    assert [count for _, count in histogram.buckets()] == [0, 0, 0, 0, 0, 1]


def test_many_values_at_once_count_as_they_do_one_by_one():
    values_s = [0.0, 1e-6, 64e-6, 0.25, 3.0, 3_600.0]
    one_by_one, at_once = seconds(), seconds()
    for value_s in values_s:
        one_by_one.add(value_s)
    at_once.add_all(values_s)
    assert list(at_once.buckets()) == list(one_by_one.buckets())
    assert at_once.sum == one_by_one.sum
