"""Ranks find each other through a private file, and nobody who has not read it is one of them."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from hpcseg.launch import meeting
from hpcseg.launch.environment import RankEnvironment
from hpcseg.launch.meeting import meet


def rank(number: int, *, one_node: bool = True) -> RankEnvironment:
    return RankEnvironment(rank=number, world_size=2, launch="test", one_node=one_node)


def published(folder: Path) -> Path:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if found := list(folder.glob(".rendezvous-*.json")):
            return found[0]
        time.sleep(0.01)
    raise AssertionError("rank 0 has published nothing")


@pytest.fixture(autouse=True)
def same_meeting(monkeypatch):
    """Both ranks are in this process here, and each would count the other's meeting as one before its own."""
    monkeypatch.setattr(meeting, "_meetings", iter([0, 0]))


def test_who_does_not_know_the_secret_is_not_counted_and_silent_connections_hold_nobody_up(tmp_path):
    before = os.umask(0)  # nothing is kept from others unless hpcseg does it
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(meet, rank(0), tmp_path)
        file = published(tmp_path)
        os.umask(before)
        assert file.stat().st_mode & 0o777 == 0o600
        address = json.loads(file.read_text())
        silent = [socket.create_connection((address["host"], address["port"])) for _ in range(20)]
        outsider = TCPStore(
            address["host"], address["port"], is_master=False, wait_for_workers=False, timeout=timedelta(seconds=1)
        )
        for prefix in ("", "/", "test/", "test/0/"):
            outsider.add(f"{prefix}here", 1)
            outsider.set(f"{prefix}all are here", "")
        with pytest.raises(RuntimeError):
            outsider.get("nonce")
        time.sleep(0.5)
        assert not first.done(), "rank 0 still waits for rank 1"
        started = time.monotonic()
        other, _ = meet(rank(1), tmp_path)
        store, _ = first.result(30)
        assert time.monotonic() - started < 5
        store.set("question", "42")
        for prefix in ("", "/", "test/0/", "/test/0/"):
            outsider.set(f"{prefix}question", "666")
        assert other.get("question") == b"42"
        for connection in silent:
            connection.close()
    assert list(tmp_path.iterdir()) == []


def test_ranks_of_one_node_meet_where_no_other_machine_can_come(tmp_path):
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(meet, rank(0), tmp_path)
        assert json.loads(published(tmp_path).read_text())["host"] == "127.0.0.1"
        port = json.loads(published(tmp_path).read_text())["port"]
        meet(rank(1), tmp_path)
        listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        listening += [line.split() for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]]
        assert {where[1] for where in listening if where[1].endswith(f":{port:04X}") and where[3] == "0A"} == {
            f"0100007F:{port:04X}"
        }
        first.result(30)


@pytest.mark.parametrize(
    ("address", "reached"), [("127.0.1.1", "thisnode"), ("192.0.2.1", "thisnode"), (None, "thisnode")]
)
def test_a_node_that_does_not_know_its_address_is_found_by_its_name(tmp_path, monkeypatch, address, reached):
    """As Debian names itself, as behind a translation of addresses, and without any name service."""
    theirs = socket.gethostbyname

    def resolve(name: str) -> str:
        if name != "thisnode":
            return theirs(name)
        if address is None:
            raise socket.gaierror
        return address

    monkeypatch.setattr(socket, "gethostbyname", resolve)
    monkeypatch.setattr(meeting, "host", lambda: "thisnode")
    server, host = meeting._serve(one_node=False)
    assert host == reached
    server.set("reached from itself", "")


def test_ranks_of_several_nodes_meet_at_the_address_that_the_first_nodes_name_has(monkeypatch):
    # Any address of this machine will do that is not 127.0.0.1.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no other address")
        own = probe.getsockname()[0]
    monkeypatch.setattr(socket, "gethostbyname", lambda name: own)
    server, host = meeting._serve(one_node=False)
    assert host == own == server.host
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", server.port), timeout=1):
        pass


def test_a_file_that_a_crashed_start_has_left_leads_nowhere(tmp_path):
    stale, _ = meeting._serve(one_node=True)
    left = {"host": "127.0.0.1", "port": stale.port, "secret": "of another start"}
    (tmp_path / ".rendezvous-test.json").write_text(json.dumps(left))
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(meet, rank(1), tmp_path)
        time.sleep(0.5)
        assert not other.done()
        thread = threading.Thread(target=meet, args=(rank(0), tmp_path))
        thread.start()
        other.result(30)
        thread.join(30)
        assert not thread.is_alive()
