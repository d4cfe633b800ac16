"""What makes the container of an app valid: image, volumes, secrets, features that are switched on.

The lower half of `validation`; here is also what both halves collect faults with. Texts are
those of the released Marathon.
"""

import re
from dataclasses import dataclass, field

from cairn_scheduler.marathon.app import App
from cairn_scheduler.marathon.container import CONTAINER, Volume
from cairn_scheduler.marathon.errors import Fault

SECRETS = "secrets"
GPU_RESOURCES = "gpu_resources"
EXTERNAL_VOLUMES = "external_volumes"
_LABEL_KEY = re.compile(r"^[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*$")
_OPTION_KEY = re.compile(r"^[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*/[^/]+$")


@dataclass(frozen=True, slots=True)
class Rules:
    """What the daemon's configuration allows.

    features: `--enable_features`. roles: the roles that the app may take (the default role and
    its group's), or None for any.
    """

    features: frozenset[str] = frozenset()
    roles: frozenset[str] | None = None


@dataclass(slots=True)
class Faults:
    """Collects faults; texts at the same path go together."""

    found: dict[str, list[str]] = field(default_factory=dict)

    def unless(self, good: bool, path: str, text: str) -> None:
        if not good:
            self.found.setdefault(path, []).append(text)

    def listed(self) -> list[Fault]:
        return [Fault(path, tuple(texts)) for path, texts in self.found.items()]


def check_container(app: App, rules: Rules, faults: Faults) -> None:
    container = app.container
    faults.unless(
        app.gpus == 0 or not app.is_docker,
        "/",
        "GPU resources only work with the Mesos containerizer",
    )
    if app.gpus:
        require_feature(rules, GPU_RESOURCES, "/", faults)
    if container is None:
        return
    docker = container.docker
    if container.type == "DOCKER":
        faults.unless(docker is not None, "/container/docker", "not defined")
        faults.unless(
            docker is None or docker.pull_config is None,
            "/container/docker/pullConfig",
            "pullConfig is not supported with Docker containerizer",
        )
        faults.unless(
            sum(n.mode == CONTAINER for n in app.networks) <= 1,
            "/",
            "may only specify a single container network when using the Docker container engine",
        )
    elif docker is not None and docker.pull_config is not None:
        require_feature(rules, SECRETS, "/container/docker/pullConfig", faults)
        faults.unless(
            docker.pull_config.secret in app.secrets,
            "/container/docker/pullConfig",
            "pullConfig.secret must refer to an existing secret",
        )
    faults.unless(
        not (container.type == "DOCKER" and app.check is not None),
        "/",
        "AppDefinition must not use 'checks' if using docker",
    )
    externals = [v.external.name for v in container.volumes if v.external is not None]
    named = [name for name in externals if name is not None]
    faults.unless(
        len(set(named)) == len(named), "/container/volumes", "Volume names must be unique"
    )
    for i, volume in enumerate(container.volumes):
        _volume(app, volume, f"/container/volumes({i})", rules, faults)


def _volume(app: App, volume: Volume, path: str, rules: Rules, faults: Faults) -> None:
    kinds = [volume.host_path, volume.persistent, volume.external, volume.secret]
    faults.unless(
        sum(kind is not None for kind in kinds) == 1,
        path,
        "must have exactly one of hostPath, persistent, external and secret",
    )
    if volume.secret is not None:
        require_feature(rules, SECRETS, path, faults)
        faults.unless(
            volume.secret in app.secrets, path, "volume.secret must refer to an existing secret"
        )
        return
    faults.unless(volume.mode is not None, f"{path}/mode", "error.path.missing")
    if volume.external is not None:
        _external_volume(app, volume, path, rules, faults)
    disk = volume.persistent
    if disk is None:
        return
    where = f"{path}/persistent"
    faults.unless(disk.size > 0, f"{where}/size", f"got {disk.size}, expected more than 0")
    faults.unless(
        volume.container_path not in (".", "..") and "/" not in volume.container_path,
        f"{path}/containerPath",
        'value must not contain "/"',
    )
    faults.unless(volume.mode in (None, "RW"), f"{path}/mode", "must be RW")
    faults.unless(
        disk.type == "mount" or disk.max_size is None, where, "Only mount volumes can have maxSize"
    )
    faults.unless(
        disk.max_size is None or disk.max_size > disk.size,
        where,
        "Max size must be larger than size",
    )
    faults.unless(
        disk.type in ("path", "mount") or not disk.constraints,
        where,
        "Constraints on root volumes are not supported",
    )
    for i, constraint in enumerate(disk.constraints):
        text = _volume_constraint(constraint)
        faults.unless(not text, f"{where}/constraints({i})", text)


def _volume_constraint(constraint: tuple[str, ...]) -> str:
    if len(constraint) < 2:
        return "Missing field and operator"
    if len(constraint) != 3 or constraint[0] != "path":
        return f"Unsupported constraint {','.join(constraint)[:64]}"
    if constraint[1] not in ("LIKE", "UNLIKE"):
        return "Operator must be one of LIKE, UNLIKE"
    try:
        re.compile(constraint[2])
    except re.error:
        return "Invalid regular expression"
    return ""


def _external_volume(app: App, volume: Volume, path: str, rules: Rules, faults: Faults) -> None:
    external = volume.external
    assert external is not None
    where = f"{path}/external"
    require_feature(rules, EXTERNAL_VOLUMES, path, faults)
    faults.unless(external.provider is not None, f"{where}/provider", "not defined")
    faults.unless(bool(external.name), f"{where}/name", "not defined")
    faults.unless(
        external.shared or app.instances <= 1,
        "/instances",
        f"got {app.instances}, expected 1 or less",
    )
    if external.provider == "csi":
        faults.unless(
            isinstance(external.options.get("pluginName"), str)
            and isinstance(external.options.get("capability"), dict),
            f"{where}/options",
            "pluginName and capability must be defined",
        )
    else:
        for key, value in external.options.items():
            faults.unless(
                bool(_OPTION_KEY.match(key)) and isinstance(value, str),
                f"{where}/options",
                f"must fully match regular expression '{_OPTION_KEY.pattern}'",
            )
        faults.unless(
            external.provider is None or bool(_LABEL_KEY.match(external.provider)),
            f"{where}/provider",
            f"must fully match regular expression '{_LABEL_KEY.pattern}'",
        )


def require_feature(rules: Rules, feature: str, path: str, faults: Faults) -> None:
    faults.unless(
        feature in rules.features,
        path,
        f"Feature {feature} is not enabled. Enable with --enable_features {feature})",
    )
