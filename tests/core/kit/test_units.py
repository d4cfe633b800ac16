"""The subset of systemd's unit files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_core.kit.units import (
    Listen,
    Service,
    Socket,
    UnitError,
    expand,
    parse_environment_file,
    parse_service,
    parse_socket,
    start_order,
)

AGENT = r"""
# an agent
[Unit]
Description=Cairn agent
After=network-online.target cairn-master.service
After=cairn-dns.service

[Service]
Type=notify
Environment=MESOS_A=1 "MESOS_B=two words"
Environment=PERCENT=100%%
EnvironmentFile=-/etc/default/agent
ExecStartPre=-/bin/true
ExecStart=cairn-agent --flag \
    --other="a b" ${MESOS_A} $$HOME
Restart=always
RestartSec=1min 500ms
TimeoutStopSec=infinity
KillMode=process
NotifyAccess=all
User=nobody
LimitNOFILE=1024:20000
Delegate=yes

[Install]
WantedBy=multi-user.target
"""


def test_a_service_is_read_whole() -> None:
    assert parse_service("cairn-agent.service", AGENT) == Service(
        name="cairn-agent",
        argv=("cairn-agent", "--flag", "--other=a b", "${MESOS_A}", "$$HOME"),
        pre=(("/bin/true",),),
        type="notify",
        restart="always",
        restart_s=60.5,
        stop_timeout_s=float("inf"),
        kill_mode="process",
        environment={"MESOS_A": "1", "MESOS_B": "two words", "PERCENT": "100%"},
        environment_files=("-/etc/default/agent",),
        notify_all=True,
        user="nobody",
        open_files=20000,
        after=("cairn-master", "cairn-dns"),
        ignored=("Delegate",),
    )


def test_arguments_are_expanded_as_systemd_does() -> None:
    service = parse_service("a", AGENT)
    assert expand(service.argv, service.environment)[-2:] == ["1", "$HOME"]
    assert expand(["x", "$MORE", "a${NO}b"], {"MORE": "one two"}) == ["x", "one", "two", "ab"]


def test_an_empty_value_forgets_the_ones_before() -> None:
    text = "[Service]\nExecStart=/bin/false\nExecStart=\nExecStart=/bin/true\n"
    assert parse_service("x", text).argv == ("/bin/true",)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no section [Service]"),
        ("[Service]\n", "expected one ExecStart, found 0"),
        ("[Service]\nExecStart=/a\nExecStart=/b", "expected one ExecStart, found 2"),
        ("[Service]\nExecStart=-", "ExecStart is empty"),
        ("[Service]\nExecStart='x", "ExecStart='x: No closing quotation"),
        ("[Service]\nExecStart=x\nRestart=maybe", "Restart=maybe: expected no|always|"),
        ("[Service]\nExecStart=x\nRestartSec=soon", "RestartSec=soon: not a time span"),
        ("[Service]\nExecStart=x\nLimitNOFILE=many", "LimitNOFILE=many: not a number"),
        ("[Service]\nExecStart=x\nEnvironment=A", "Environment=A: expected NAME=VALUE"),
        ("[Service]\nnonsense", "line 2 not understood: 'nonsense'"),
        ("Key=value", "line 1 not understood"),
    ],
)
def test_a_wrong_unit_says_what(text: str, problem: str) -> None:
    with pytest.raises(UnitError) as caught:
        parse_service("x.service", text)
    assert str(caught.value).startswith(f"unit x: {problem}")


def test_sockets_are_read() -> None:
    text = """
[Socket]
ListenStream=53
ListenStream=127.0.0.1:8053
ListenStream=[::1]:53
ListenDatagram=/run/x.sock
FileDescriptorName=dns
Service=cairn-dns.service
SocketMode=0660
Accept=no
"""
    assert parse_socket("y.socket", text) == Socket(
        name="y",
        service="cairn-dns",
        listens=(
            Listen("stream", host="", port=53),
            Listen("stream", host="127.0.0.1", port=8053),
            Listen("stream", host="::1", port=53),
            Listen("datagram", path="/run/x.sock"),
        ),
        fd_name="dns",
        mode=0o660,
        ignored=("Accept",),
    )
    assert parse_socket("z", "[Socket]\nListenStream=1").fd_name == "z.socket"


def test_options_of_sockets_are_read() -> None:
    text = """
[Socket]
ListenDatagram=198.51.100.1:53
ListenDatagram=198.51.100.1:53
ListenStream=[fd01:d::c633:6401]:53
ReusePort=yes
FreeBind=true
BindIPv6Only=ipv6-only
ReceiveBuffer=4M
"""
    made = parse_socket("y", text)
    twice = Listen("datagram", host="198.51.100.1", port=53)
    assert made.listens[1:] == (twice, twice)
    assert (made.reuse_port, made.free_bind, made.ipv6_only) == (True, True, "ipv6-only")
    assert (made.receive_buffer, made.ignored) == (4 << 20, ())
    plain = parse_socket("z", "[Socket]\nListenStream=1\nReusePort=off\nFreeBind=0")
    assert (plain.reuse_port, plain.free_bind) == (False, False)
    assert (plain.ipv6_only, plain.receive_buffer) == ("default", None)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("ReusePort=maybe", "ReusePort=maybe: expected 1|yes|"),
        ("FreeBind=2", "FreeBind=2: expected 1|yes|"),
        ("BindIPv6Only=ipv4-only", "BindIPv6Only=ipv4-only: expected default|both|ipv6-only"),
        ("ReceiveBuffer=0", "ReceiveBuffer=0: not a size in bytes"),
        ("ReceiveBuffer=4X", "ReceiveBuffer=4X: not a size in bytes"),
        ("ReceiveBuffer=2G", "ReceiveBuffer=2G: not a size in bytes"),
    ],
)
def test_a_wrong_option_of_a_socket_says_what(line: str, problem: str) -> None:
    with pytest.raises(UnitError) as caught:
        parse_socket("x", f"[Socket]\nListenStream=1\n{line}")
    assert str(caught.value).startswith(f"unit x: {problem}")


@pytest.mark.parametrize("value", ["x", "0", "70000", "1.2.3.4", "[::1]"])
def test_a_wrong_address_is_refused(value: str) -> None:
    with pytest.raises(UnitError, match="cannot listen on"):
        parse_socket("x", f"[Socket]\nListenStream={value}")


@pytest.mark.parametrize(
    ("policy", "codes"),
    [
        ("no", []),
        ("always", [0, 1, -9, -15]),
        ("on-failure", [1, -9]),
        ("on-success", [0, -15]),
        ("on-abnormal", [-9]),
    ],
)
def test_restart_policies(policy: str, codes: list[int]) -> None:
    service = parse_service("x", f"[Service]\nExecStart=x\nRestart={policy}")
    assert [code for code in (0, 1, -9, -15) if service.restarts_after(code)] == codes


def test_environment_files_skip_what_is_no_assignment() -> None:
    text = "# comment\nA=1\nB='two words'\nexport C=3\n=x\nD='open\n"
    assert parse_environment_file(text) == {"A": "1", "B": "two words"}


@given(st.dictionaries(st.sampled_from("abcdef"), st.sets(st.sampled_from("abcdefx")), max_size=6))
def test_the_order_holds_every_unit_once_and_respects_after(graph: dict[str, set[str]]) -> None:
    services = [Service(name=n, argv=("x",), after=tuple(sorted(a))) for n, a in graph.items()]
    order = [service.name for service in start_order(services)]
    assert sorted(order) == sorted(graph)
    upstream = {n: {m for m in graph if m < n and m in graph[n]} for n in graph}
    forward = [Service(name=n, argv=("x",), after=tuple(a)) for n, a in upstream.items()]
    placed: set[str] = set()
    for service in start_order(forward):
        assert upstream[service.name] <= placed
        placed.add(service.name)


@given(st.text(alphabet="[]=\\\n #;Service ExecStart'\"$%x", max_size=80))
def test_any_text_is_a_unit_or_a_unit_error(text: str) -> None:
    for parse in (parse_service, parse_socket):
        try:
            parse("x", text)
        except UnitError as error:
            assert error.unit == "x"  # noqa: PT017 - any other exception fails the test
