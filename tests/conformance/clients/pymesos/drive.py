"""Drives the unmodified pymesos client; prints one JSON object of what it saw.

drive.py scheduler MASTER    launch three tasks, wait for their end, kill a fourth
drive.py operator MASTER     read the state through the operator driver of the master
drive.py agent AGENT         and through that of an agent
"""

import json
import sys
import threading

from addict import Dict
from pymesos import (
    MesosOperatorAgentDriver,
    MesosOperatorMasterDriver,
    MesosSchedulerDriver,
    OperatorMaster,
    Scheduler,
    encode_data,
)


class Batch(Scheduler):
    """Launches tasks on the first offers and notes every state they go through."""

    def __init__(self):
        self.framework = None
        self.states = {}
        self.reconciled = []
        self.done = threading.Event()
        self.waiting = [("t1", "exit 0"), ("t2", "exit 3"), ("t3", "true"), ("t4", "sleep 1000")]

    def registered(self, driver, framework_id, master_info):
        self.framework = framework_id.value

    def resourceOffers(self, driver, offers):
        for offer in offers:
            tasks = []
            cpus = sum(r.scalar.value for r in offer.resources if r.name == "cpus")
            while self.waiting and cpus >= 0.1:
                cpus -= 0.1
                name, command = self.waiting.pop(0)
                task = Dict()
                task.task_id.value = name
                task.agent_id.value = offer.agent_id.value
                task.name = name
                task.command = {"value": command, "shell": True}
                task.data = encode_data(b"payload")
                task.resources = [
                    {"name": "cpus", "type": "SCALAR", "scalar": {"value": 0.1}},
                    {"name": "mem", "type": "SCALAR", "scalar": {"value": 32}},
                ]
                tasks.append(task)
            if tasks:
                driver.launchTasks(offer.id, tasks)
            else:
                driver.declineOffer(offer.id, {"refuse_seconds": 1})

    def statusUpdate(self, driver, update):
        name = update.task_id.value
        if update.get("reason") == "REASON_RECONCILIATION":
            self.reconciled.append([name, update.state])
            return
        states = self.states.setdefault(name, [])
        if not states or states[-1] != update.state:
            states.append(update.state)
        if name == "t4" and update.state == "TASK_RUNNING":
            driver.reconcileTasks([{"task_id": {"value": "t4"}}, {"task_id": {"value": "nobody"}}])
            driver.killTask({"value": "t4"})
        if len(self.states) == 4 and all(
            s[-1] in ("TASK_FINISHED", "TASK_FAILED", "TASK_KILLED") for s in self.states.values()
        ):
            self.done.set()


def scheduler(master):
    framework = Dict(user="root", name="pymesos", hostname="localhost")
    batch = Batch()
    driver = MesosSchedulerDriver(batch, framework, master, use_addict=True)
    thread = threading.Thread(target=driver.run, daemon=True)
    thread.start()
    finished = batch.done.wait(60)
    driver.suppressOffers()
    driver.reviveOffers()
    driver.stop()
    thread.join(10)
    return {
        "finished": finished,
        "framework": batch.framework,
        "states": batch.states,
        "reconciled": batch.reconciled,
    }


class Watcher(OperatorMaster):
    """Notes the events of the operator stream."""

    def __init__(self):
        self.seen = []
        self.subscribed = threading.Event()

    def taskAdded(self, task_info):
        self.seen.append("taskAdded")

    def agentAdded(self, agent_info):
        self.seen.append("agentAdded")


def operator(master):
    driver = MesosOperatorMasterDriver(master, Watcher())
    driver.start()
    try:
        return {
            "health": driver.getHealth(),
            "version": driver.getVersion(),
            "agents": driver.getAgents(),
            "frameworks": driver.getFrameworks(),
            "tasks": driver.getTasks(),
            "state": driver.getState(),
            "roles": driver.getRoles(),
            "weights": driver.getWeights(),
            "quota": driver.getQuota(),
            "metrics": driver.getMetrics(5),
            "flags": driver.getFlags(),
            "master": driver.getMaster(),
        }
    finally:
        driver.stop()


def agent(address):
    driver = MesosOperatorAgentDriver(address)
    return {
        "health": driver.getHealth(),
        "version": driver.getVersion(),
        "containers": driver.getContainers(),
        "state": driver.getState(),
        "metrics": driver.getMetrics(5),
    }


if __name__ == "__main__":
    drivers = {"scheduler": scheduler, "operator": operator, "agent": agent}
    print(json.dumps(drivers[sys.argv[1]](sys.argv[2])))
