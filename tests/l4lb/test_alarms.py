"""What is reported of the host, and how often."""

from cairn_l4lb.alarms import AGAIN_S, HOLD_S, Alarms


def test_a_counter_that_grows_is_an_alarm_for_a_minute() -> None:
    alarms = Alarms()
    assert not alarms.look({"queue_dropped": 7, "other": 1}, 0, 0, 0)  # from before our time
    told = alarms.look({"queue_dropped": 8, "other": 9}, 0, 0, 1)
    assert [one.name for one in told] == ["queue_dropped"]
    assert not alarms.look({"queue_dropped": 9}, 0, 0, 2)  # logged a moment ago
    assert alarms.on["queue_dropped"].since == 1
    alarms.look({"queue_dropped": 9}, 0, 0, 2 + HOLD_S + 1)
    assert not alarms.on


def test_a_counter_that_began_anew_is_none() -> None:
    alarms = Alarms()
    alarms.look({"conntrack_drop": 7}, 0, 0, 0)
    assert not alarms.look({"conntrack_drop": 2}, 0, 0, 1)


def test_a_full_table_is_an_alarm_while_it_is_full() -> None:
    alarms = Alarms()
    assert not alarms.look({}, 80, 100, 0)
    (told,) = alarms.look({}, 95, 100, 1)
    assert "95 of 100" in told.text
    assert not alarms.look({}, 95, 100, 2)
    assert [one.name for one in alarms.look({}, 99, 100, 2 + AGAIN_S)] == ["conntrack_nearly_full"]
    alarms.look({}, 10, 100, 3 + AGAIN_S)
    assert not alarms.on
