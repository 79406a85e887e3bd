"""Where messages come from is what the settings say."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.inside import new_hub, new_resumer, settings
from trio_sse.broker.cluster_subscriber import ClusterSubscriber
from trio_sse.broker.key_subscriber import KeySubscriber
from trio_sse.broker.source import Source
from trio_sse.broker.subscriber import Subscriber


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({}, Subscriber),
        ({"redis_stream": "events"}, Subscriber),
        ({"redis_routing": "by-key"}, KeySubscriber),
        ({"redis_routing": "by-key", "redis_cluster": "a,b"}, ClusterSubscriber),
    ],
)
def test_it_makes_the_subscriber_and_what_that_needs(values: dict[str, Any], kind: type) -> None:
    hub = new_hub()
    source = Source(settings(**values), hub)
    subscriber = source.subscriber(new_resumer(hub.history))
    assert type(subscriber) is kind
    assert subscriber.problem_code == "redis_not_tried"
    assert subscriber.problem == "Redis: not connected yet"
    assert (source.interest is None) == (source.channels is None) == (kind is Subscriber)
    assert (source.cluster is None) == (kind is not ClusterSubscriber)


def test_channels_have_the_prefix_of_the_settings() -> None:
    channels = Source(settings(redis_routing="by-key", redis_channel="news"), new_hub()).channels
    assert channels is not None
    assert channels.of("42") == b"news:user:42"
