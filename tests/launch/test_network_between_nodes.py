"""gloo takes the network that leads to the other nodes; tests/slurm has two nodes with networks of their own."""

from __future__ import annotations

import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import PrefixStore, TCPStore

from hpcseg.launch import network
from hpcseg.launch.network import gloo_between_nodes

WISH = "GLOO_SOCKET_IFNAME"
# What leads where, as each rank asks: the node of ranks 0 and 1 maps its own name to itself, as Debian does.
TWO_NODES = [{"": None, "10.0.0.2": "10.0.0.1"}] * 2 + [{"": "10.0.0.2"}] * 2
ONE_NODE = [{"": None}] * 3
NODES_THAT_KNOW_THEMSELVES = [{"": "10.0.0.1"}, {"": "10.0.0.2"}]


def own_addresses(monkeypatch, towards) -> list[str | None]:
    """What all ranks together find."""
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    this = threading.local()

    def address_towards(host, port):
        assert port == server.port
        return towards[this.rank]["" if host == "127.0.0.1" else host]

    def found_by(rank):
        this.rank = rank
        client = TCPStore("127.0.0.1", server.port, wait_for_workers=False)
        return network._own_address(PrefixStore("test", client), rank, len(towards))

    monkeypatch.setattr(network, "_address_towards", address_towards)
    with ThreadPoolExecutor(len(towards)) as pool:
        return list(pool.map(found_by, range(len(towards)), timeout=30))


@pytest.mark.parametrize(
    ("towards", "expected"),
    [
        (TWO_NODES, ["10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.2"]),
        (ONE_NODE, [None, None, None]),
        (NODES_THAT_KNOW_THEMSELVES, ["10.0.0.1", "10.0.0.2"]),
    ],
)
def test_each_rank_knows_the_address_under_which_other_nodes_find_its_own(monkeypatch, towards, expected):
    assert own_addresses(monkeypatch, towards) == expected


def test_the_address_on_the_way_to_another_machine_and_its_interface_are_this_nodes():
    assert network._address_towards("127.0.0.1", 9) is None, "that way leads nowhere else"
    assert network._address_towards("no-such-host.invalid", 9) is None
    assert network._interface("127.0.0.1") == "lo" and network._interface("192.0.2.77") is None
    own = network._address_towards("198.51.100.1", 9)  # of an example, and nothing is sent
    if own is not None:  # a machine without any network has none
        assert network._interface(own) in {name for _, name in socket.if_nameindex()} - {"lo"}


@pytest.fixture
def store() -> PrefixStore:
    return PrefixStore("test", TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False))


def test_gloo_is_told_while_it_begins_and_not_after(monkeypatch, store):
    monkeypatch.delenv(WISH, raising=False)
    monkeypatch.setattr(network, "_own_address", lambda *_: "10.0.0.1")
    for interface in ("eth7", None):
        monkeypatch.setattr(network, "_interface", lambda address, interface=interface: address and interface)
        with gloo_between_nodes(store, 0, 1):
            assert os.environ.get(WISH) == interface
        assert WISH not in os.environ


def test_what_the_user_has_said_is_left_alone(monkeypatch, store):
    monkeypatch.setenv(WISH, "ib0")
    monkeypatch.setattr(network, "_own_address", lambda *_: pytest.fail("it was asked"))
    with gloo_between_nodes(store, 0, 1):
        assert os.environ[WISH] == "ib0"
    assert os.environ[WISH] == "ib0"
