"""The files of a project's shared folder, read and written (spec/tango.md 4). Pure: texts in, texts out.

Readers take every spelling that real containers write; what is written is the spelling that all of them read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from runyard.model.errors import InvalidInput
from runyard.project.definition import Project

PROJECT_INFO = "project_info.yaml"
LOG = "log.txt"
#: Bytes of a file that are read; values in it, each alias written out, and how deep they may be nested.
MAX_FILE, MAX_VALUES, MAX_DEPTH = 1024 * 1024, 100_000, 50

#: What a target type has, unless the project says otherwise (spec 3.4). Memory is in GB.
_TARGETS: dict[str, dict[str, Any]] = {
    "cloud": {"engine": "pytorch", "os": "ubuntu", "cpu": "x86", "acc": "cpu", "memory": 256},
    "k8s": {"engine": "pytorch", "os": "ubuntu", "cpu": "x86", "acc": "cpu", "memory": 64},
    "k8s_jetson_nano": {"engine": "tensorrt", "os": "ubuntu", "cpu": "arm", "acc": "cuda", "memory": 4},
    "pc": {"engine": "pytorch", "os": "ubuntu", "cpu": "x86", "acc": "cpu", "memory": 64},
    "pc_web": {"engine": "pytorch", "os": "ubuntu", "cpu": "x86", "acc": "cpu", "memory": 64},
    "jetson_agx_orin": {"engine": "tensorrt", "os": "ubuntu", "cpu": "arm", "acc": "cuda", "memory": 64},
    "jetson_agx_xavier": {"engine": "tensorrt", "os": "ubuntu", "cpu": "arm", "acc": "cuda", "memory": 32},
    "jetson_nano": {"engine": "tensorrt", "os": "ubuntu", "cpu": "arm", "acc": "cuda", "memory": 4},
    "galaxy_s22": {"engine": "tflite", "os": "android", "cpu": "arm", "acc": "cpu", "memory": 8},
    "odroid_n2": {"engine": "acl", "os": "ubuntu", "cpu": "arm", "acc": "opencl", "memory": 2},
}
_COMMON = frozenset(
    {"task_type", "target_info", "learning_type", "weight_file", "cpu", "acc", "memory", "os", "engine"}
    | {"nfs_ip", "nfs_path", "target_hostip", "target_hostport", "target_serviceport"}
)
_AUTONN = frozenset({"dataset", "basemodel", "nas_type", "batchsize", "model_size", "confidence_thresh", "iou_thresh"})
_OLD_NAMES = {"target_ip": "target_hostip", "target_port": "target_hostport"}
#: The files that members write for each other, with the names that they go by.
KNOWN_FILES = {
    "project_info": (PROJECT_INFO,),
    "basemodel": ("basemodel.yaml", "basemodel.yml", "basemodel.json"),
    "neural_net_info": ("neural_net_info.yaml", "neural_net_info.yml"),
    "labelmap": ("labelmap.yaml", "labelmap.yml"),
    "deployment": ("deployment.yaml", "deployment.yml"),
}


def project_folder(root: Path, user: str, project: str) -> Path:
    """The folder of a project in the shared one. The ids have been checked (`definition.check_identity`)."""
    return root / "common" / user / project


def project_info(project: Project) -> str:
    """project_info.yaml: what every container reads about the project."""
    values: dict[str, Any] = {
        "task_type": project.task_type,
        "target_info": project.target.lower(),
        "learning_type": project.learning_type,
        **_TARGETS.get(project.target.lower(), {}),
        **({"dataset": project.dataset} if project.dataset is not None else {}),
        "nas_type": str(project.nas_type),
        "user_editing": "yes" if project.user_editing else "no",
        **project.info,
    }
    sections: dict[str, dict[str, Any]] = {"common": {}, "autonn": {}, "deploy": {}}
    for key, value in values.items():
        section = "common" if key in _COMMON else "autonn" if key in _AUTONN else "deploy"
        sections[section][key] = value
    return "".join(f"# {name}\n{_dump(section)}" for name, section in sections.items() if section)


def read_project_info(text: str) -> dict[str, Any]:
    """The values in a project_info.yaml, under their present names. Raises InvalidInput."""
    values = {_OLD_NAMES.get(key, key): value for key, value in read_yaml(text, PROJECT_INFO).items()}
    editing = values.get("user_editing")
    if isinstance(editing, str):
        # YAML 1.1 reads yes and no as booleans, other readers do not.
        values["user_editing"] = editing.strip().lower() in ("yes", "true")
    return values


def read_deployment(text: str) -> dict[str, Any]:
    """deployment.yaml, in one spelling: `apt`, `pypi`, `work_dir`, `nfs_ip`, `nfs_path`. Raises InvalidInput."""
    values = read_yaml(text, "deployment.yaml")
    build, deploy = _table(values, "build"), _table(values, "deploy")
    components = _table(build, "components")
    packages = _table(components, "custom_packages")
    _rename(packages, {"atp": "apt", "papi": "pypi"})
    _rename(deploy, {"workdir": "work_dir", "name": "service_name"})
    _rename(_table(deploy, "k8s"), {"nfsip": "nfs_ip", "nfspath": "nfs_path"})
    return values


def read_neural_net(text: str) -> dict[str, Any]:
    """neural_net_info.yaml; `weight_file` and `class_file` become lists. Raises InvalidInput without a weight file."""
    values = read_yaml(text, "neural_net_info.yaml")
    for key in ("weight_file", "class_file"):
        if isinstance(values.get(key), str):
            values[key] = [values[key]]
    if not values.get("weight_file"):
        raise InvalidInput("neural_net_info.yaml: weight_file is missing: it says where the network is")
    return values


def read_known(kind: str, text: str) -> dict[str, Any]:
    """One of `KNOWN_FILES`. Raises InvalidInput."""
    if kind == "project_info":
        return read_project_info(text)
    if kind == "deployment":
        return read_deployment(text)
    if kind == "neural_net_info":
        return read_neural_net(text)
    return read_yaml(text, kind)


def read_yaml(text: str, name: str) -> dict[str, Any]:
    """A YAML file (JSON is YAML as well) with a table at its top, as values that JSON has. Raises InvalidInput."""
    import yaml

    if len(text) > MAX_FILE:
        raise InvalidInput(f"{name} is longer than {MAX_FILE} bytes")
    try:
        value = _plain(yaml.load(text, _loader()), [MAX_VALUES])
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InvalidInput(f"{name} is not YAML: {' '.join(str(error).split())[:300]}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInput(f"{name} must hold keys and values, not {type(value).__name__}")
    return value


def _plain(value: Any, left: list[int], depth: int = 0) -> Any:
    """What JSON can say of it. Aliases share values, and a few lines of them may stand for billions: they are counted
    where they are written out. Raises ValueError."""
    left[0] -= 1
    if left[0] < 0 or depth > MAX_DEPTH:
        raise ValueError(f"it has more than {MAX_VALUES} values, or they are nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        return {_text(key): _plain(item, left, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item, left, depth + 1) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < 1 << 53):
        return value
    return _text(value)


def _text(value: Any) -> str:
    """YAML may have halves of surrogate pairs, which JSON can't be sent with."""
    return str(value).encode("utf-8", "replace").decode()


@cache
def _loader() -> Any:
    """PyYAML's safe loader, without merge keys: merging copies, and a few lines may ask for billions of copies."""
    import yaml

    class Loader(yaml.SafeLoader):
        def flatten_mapping(self, node: Any) -> None:
            for key, _ in node.value:
                if key.tag == "tag:yaml.org,2002:merge":
                    raise yaml.constructor.ConstructorError(None, None, "merge keys are not taken", key.start_mark)

    return Loader


def _dump(values: Mapping[str, Any]) -> str:
    import yaml

    text: str = yaml.safe_dump(dict(values), default_flow_style=False, sort_keys=False, allow_unicode=True)
    return text.replace("user_editing: 'yes'", "user_editing: yes").replace("user_editing: 'no'", "user_editing: no")


def _table(values: dict[str, Any], key: str) -> dict[str, Any]:
    found = values.get(key)
    if not isinstance(found, dict):
        found = values[key] = {}
    return found


def _rename(values: dict[str, Any], names: Mapping[str, str]) -> None:
    for old, new in names.items():
        if old in values:
            found = values.pop(old)
            values.setdefault(new, found)
