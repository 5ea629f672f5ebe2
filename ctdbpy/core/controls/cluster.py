# SPDX-License-Identifier: GPL-3.0-or-later
"""Controls about the node as a whole and its part in recoveries."""

from __future__ import annotations

from ctdbpy.core.controls.handlers import Handler
from ctdbpy.core.effects import Announce, LogLevel
from ctdbpy.core.events.events import EventResult
from ctdbpy.core.procedures import Promise
from ctdbpy.core.requests import OK, Reply, Request, refuse
from ctdbpy.core.rooms import Rooms
from ctdbpy.core.state import NOBODY
from ctdbpy.wire.codecs import U32
from ctdbpy.wire.constants import Capability, RecoveryMode, RunState
from ctdbpy.wire.controls import Control, encode_reply
from ctdbpy.wire.structures import Uptime, VnnMap

#: What scripts that have nothing to do then take on an idle machine; clients wait as long.
RECOVERY_WAIT_S = 0.1


def _pnn(rooms: Rooms, _request: Request, _value: None) -> Reply:
    return Reply(rooms.state.pnn)


def _pid(rooms: Rooms, _request: Request, _value: None) -> Reply:
    return Reply(rooms.state.config.pid)


def _runstate(rooms: Rooms, _request: Request, _value: None) -> Reply:
    return Reply(data=U32.pack(rooms.state.runstate))


def _recmode(rooms: Rooms, _request: Request, _value: None) -> Reply:
    return Reply(rooms.state.recmode)


async def _set_recmode(rooms: Rooms, request: Request, mode: int) -> Reply:
    """Normal only if every database has come through the recovery of the present map."""
    state = rooms.state
    if mode == RecoveryMode.ACTIVE and request.client is None:
        # A recovery begins; it answers whatever was wanted before.
        state.recovery_wanted = ""
        state.map_is_new = False
        rooms.cluster_lock.begin_check()
    if mode == state.recmode:
        return OK
    if mode == RecoveryMode.ACTIVE:
        state.set_recmode(RecoveryMode.ACTIVE, f"node {request.pnn} asks for it")
        return OK
    if mode != RecoveryMode.NORMAL:
        return refuse(f"there is no recovery mode {mode}")
    known = (state.generation, state.map_is_new)
    await rooms.standing.lasting_obstacle(rooms.runner)
    if reason := _obstacle(rooms):
        return refuse(reason)
    for database in state.databases.values():
        if database.generation != state.generation:
            return refuse(f"{database.name!r} is of generation {database.generation}, not {state.generation}")
    if reason := await rooms.cluster_lock.check():
        return refuse(reason)
    if state.databases and all(database.is_frozen for database in state.databases.values()):
        await rooms.freezes.thaw_all()
    # While those waited, something may have happened.
    if reason := _obstacle(rooms):
        return refuse(reason)
    if known != (state.generation, state.map_is_new):
        return refuse("another recovery has begun")
    state.set_recmode(RecoveryMode.NORMAL, f"node {request.pnn} says it is over")
    rooms.standing.recovered()
    return OK


def _obstacle(rooms: Rooms) -> str:
    """Why a recovery must not end here, "" if it may."""
    if rooms.state.recovery_wanted:
        return f"another recovery is wanted: {rooms.state.recovery_wanted}"
    if rooms.state.is_inactive:
        return "this node is banned or stopped"
    obstacle = rooms.standing.obstacle()
    return f"this node must not serve: {obstacle}" if obstacle else ""


def _vnnmap(rooms: Rooms, _request: Request, _value: None) -> Reply:
    return Reply(data=VnnMap(rooms.state.generation, rooms.state.lmasters).pack())


async def _set_vnnmap(rooms: Rooms, request: Request, wanted: VnnMap) -> Reply:
    """Take a new map, once whom it does without can have no lease of this node's any more."""
    state = rooms.state
    while not (obstacle := _not_for_this_node(rooms, request)):
        wait_s = rooms.standing.leave_out(wanted.map)
        if wait_s <= 0:
            break
        await rooms.runner.limit(rooms.standing.sight_changes(), wait_s, None)
    if obstacle:
        return refuse(obstacle)
    if not wanted.map or any(state.peer(pnn) is None for pnn in wanted.map):
        return refuse(f"the map {list(wanted.map)} does not name nodes of this cluster")
    state.set_map(wanted.generation, wanted.map)
    state.mapped = {*state.active(), *wanted.map}
    state.serving |= state.mapped
    if state.lineage:
        state.lineage.add(wanted.generation)
    state.map_is_new = True
    return OK


def _not_for_this_node(rooms: Rooms, request: Request) -> str:
    state = rooms.state
    if not state.is_recovering:
        return "the map changes only in recovery"
    if request.client is None and request.pnn not in (state.leader, state.pnn):
        return f"node {request.pnn} does not lead this node, {_leader_name(state.leader)} does"
    return ""


def _leader_name(leader: int) -> str:
    return "nobody" if leader == NOBODY else f"node {leader}"


async def _start_recovery(rooms: Rooms, _request: Request, _value: None) -> Reply:
    rooms.state.recovery_started_s = rooms.state.now_s
    return _verdict(await _run_briefly(rooms, "startrecovery"))


async def _end_recovery(rooms: Rooms, _request: Request, _value: None) -> Reply:
    """The cluster is consistent; a node that was starting serves from now on."""
    state = rooms.state
    state.recovery_ended_s = state.now_s
    state.recoveries += 1
    state.recovery_wanted = ""
    if not state.is_recovering:
        result = await _run_briefly(rooms, "recovered")
        if not result.is_good:
            return _verdict(result)
    if state.runstate is RunState.FIRST_RECOVERY:
        state.runstate = RunState.STARTUP
        state.log(LogLevel.NOTICE, "runstate STARTUP")
        state.emit(Announce("starting", True))
    rooms.takeovers.want()
    return OK


def _run_briefly(rooms: Rooms, event: str) -> Promise[EventResult]:
    """Run an event whose scripts may stop a recovery, if they say so soon: everybody waits for them.

    Events after it wait for it as ever.
    """
    return rooms.runner.limit(rooms.events.run(event), RECOVERY_WAIT_S, EventResult(0))


def _verdict(result: EventResult) -> Reply:
    return OK if result.is_good else refuse(result.text)


def _uptime(rooms: Rooms, _request: Request, _value: None) -> Reply:
    state = rooms.state
    moments = (state.now_s, state.started_s, state.recovery_started_s, state.recovery_ended_s)
    return Reply(data=Uptime(*(state.timeval(moment) for moment in moments)).pack())


def _capabilities(rooms: Rooms, _request: Request, _value: None) -> Reply:
    return Reply(data=U32.pack(rooms.state.capabilities))


def _set_lmaster_role(rooms: Rooms, _request: Request, on: int) -> Reply:
    _set_role(rooms, Capability.LMASTER, on)
    return OK


def _set_leader_role(rooms: Rooms, _request: Request, on: int) -> Reply:
    _set_role(rooms, Capability.RECMASTER, on)
    return OK


def _set_role(rooms: Rooms, role: Capability, on: int) -> None:
    state = rooms.state
    state.capabilities = state.capabilities | role if on else state.capabilities & ~role


def _cluster_lock(rooms: Rooms, _request: Request, _value: None) -> Reply:
    return Reply(data=encode_reply(Control.GET_RECLOCK_FILE, rooms.state.cluster_lock or None))


def _reclock_latency(rooms: Rooms, _request: Request, seconds: float) -> Reply:
    rooms.statistician.note_reclock(seconds)
    return OK


def _node_started(rooms: Rooms, _request: Request, _value: None) -> Reply:
    rooms.connections.tell_all()
    return OK


def _nothing_to_do(_rooms: Rooms, _request: Request, _value: None) -> Reply:
    return OK


def _shutdown(rooms: Rooms, request: Request, _value: None) -> Reply:
    rooms.shut_down(f"node {request.pnn} sent SHUTDOWN")
    return OK


HANDLERS: dict[Control, Handler] = {
    Control.GET_PNN: _pnn,
    Control.GET_PID: _pid,
    Control.GET_RUNSTATE: _runstate,
    Control.GET_RECMODE: _recmode,
    Control.SET_RECMODE: _set_recmode,
    Control.GETVNNMAP: _vnnmap,
    Control.SETVNNMAP: _set_vnnmap,
    Control.START_RECOVERY: _start_recovery,
    Control.END_RECOVERY: _end_recovery,
    Control.UPTIME: _uptime,
    Control.GET_CAPABILITIES: _capabilities,
    Control.SET_LMASTERROLE: _set_lmaster_role,
    Control.SET_RECMASTERROLE: _set_leader_role,
    Control.GET_RECLOCK_FILE: _cluster_lock,
    Control.RECD_RECLOCK_LATENCY: _reclock_latency,
    # Upstream's separate recovery process says that it lives; ours is this very brain.
    Control.RECD_PING: _nothing_to_do,
    Control.STARTUP: _node_started,
    Control.SHUTDOWN: _shutdown,
}
