"""The containers that the protocol names: their ids, aliases, ports and habits (spec 1.4, 1.10, 2.3, 2.4)."""

from __future__ import annotations

import msgspec

#: Waits for a person's confirmation; no member stands behind it.
USER_EDIT = "user_edit"
#: The reference's name for the deploy container that fits the target.
IMAGE_DEPLOY = "imagedeploy"


class Container(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of member."""

    id: str
    port: int = 0
    """Where it listens; 0 if it never does."""
    host: str = ""
    """Its name in the reference's compose file."""
    aliases: tuple[str, ...] = ()
    report_authoritative: bool = False
    """It says `completed` even when it did nothing: its report counts, not what it says when it is asked."""
    running_is_done: float | None = None
    """Seconds after which a stable `running` counts as success: what was deployed runs for good."""


_CONTAINERS = (
    Container(id="labelling", port=8095, host="labelling", aliases=("labeling",)),
    Container(id="bms", port=8081, host="bms", aliases=("base_model_select",)),
    Container(id="vis2code", port=8091, host="visualization", aliases=("viz2code", "visualization")),
    Container(id="backbone_nas", port=8087, host="backbone_nas", aliases=("bb_nas", "autonn_bb")),
    Container(id="neck_nas", port=8089, host="neck_nas", aliases=("autonn_nk",)),
    Container(id="yoloe", port=8090, host="yoloe", aliases=("autonn_yoloe",)),
    Container(id="autonn_resnet", port=8092, host="autonn-resnet", aliases=("autonn-resnet", "resnet")),
    Container(id="autonn", port=8100, host="autonn", aliases=("auto_nn",)),
    Container(id="tangochat", port=8101, host="tangochat"),
    Container(id="autonn_cl", port=8102, host="autonn-cl", aliases=("autonn-cl",)),
    Container(
        id="code_gen", port=8888, host="codeGen", aliases=("codegen", "deploy_codegen"), report_authoritative=True
    ),
    Container(id="cloud_deploy", port=8890, host="cloud-deploy", aliases=("clouddeploy",), running_is_done=60.0),
    Container(id="ondevice_deploy", port=8891, host="ondevice", aliases=("ondevice",), report_authoritative=True),
    Container(id="k8s_deploy", port=8901, host="kube-deploy", aliases=("kube_deploy",), report_authoritative=True),
    Container(id=USER_EDIT),
)

CONTAINERS = {container.id: container for container in _CONTAINERS}
_BY_ALIAS = {alias.lower(): container.id for container in _CONTAINERS for alias in (container.id, *container.aliases)}

_CLOUD = frozenset({"cloud", "kt_cloud", "gcp", "aws"})
_KUBERNETES = frozenset({"k8s", "k8s_jetson_nano"})


def deploy_container(target: str) -> str:
    """The deploy container for a target type, in any case; what is no cloud and no Kubernetes is a device."""
    kind = target.lower()
    return "cloud_deploy" if kind in _CLOUD else "k8s_deploy" if kind in _KUBERNETES else "ondevice_deploy"


def canonical(name: str, target: str = "") -> str | None:
    """The id of the container that a name or alias means, in any case; None if the protocol knows none.

    `imagedeploy` means the deploy container that fits the target.
    """
    lowered = name.lower()
    return deploy_container(target) if lowered == IMAGE_DEPLOY else _BY_ALIAS.get(lowered)


def known(id: str) -> Container:
    """What is known of a container; of one that the protocol does not name, nothing."""
    return CONTAINERS.get(id) or Container(id=id)
