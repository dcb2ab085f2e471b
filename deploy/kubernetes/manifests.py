"""The manifests: ``python -m deploy.kubernetes.manifests`` writes base and overlays as YAML next to this file.

A test compares the committed files with this output.
"""

from pathlib import Path

import yaml

from deploy.kubernetes import objects, overlays
from deploy.kubernetes.objects import NAMESPACE, Object

HERE = Path(__file__).parent
_HEAD = (
    "# Made by `python -m deploy.kubernetes.manifests`: change the code there, or patch this in an overlay of yours.\n"
)


def files() -> dict[str, list[Object]]:
    """The objects of each file, by its path below this folder."""
    base = {
        "base/common.yaml": objects.common(),
        "base/topics.yaml": [objects.topics()],
        "base/edge.yaml": [objects.edge()],
        "base/worker.yaml": [objects.worker()],
        "base/network.yaml": objects.network(),
    }
    names = [Path(name).name for name in base]
    images = [{"name": name, "newName": name, "newTag": "latest"} for name in (objects.IMAGE, overlays.XDP_IMAGE)]
    out = base | {"base/kustomization.yaml": [_kustomization({"resources": names, "images": images[:1]})]}
    out["overlays/monitoring/monitoring.yaml"] = overlays.monitoring()
    more: Object = {"resources": ["../../base", "monitoring.yaml"]}
    out["overlays/monitoring/kustomization.yaml"] = [_kustomization(more)]
    out["overlays/scaling/scaling.yaml"] = overlays.scaling()
    more = {"resources": ["../monitoring", "scaling.yaml"], "patches": [overlays.unfixed_replicas()]}
    out["overlays/scaling/kustomization.yaml"] = [_kustomization(more)]
    for name, patches in (("external-kafka", overlays.external_kafka()), ("with-xdp", overlays.with_xdp())):
        paths = [{"path": f"{patch['kind'].lower()}.yaml"} for patch in patches]
        out |= {f"overlays/{name}/{path['path']}": [patch] for path, patch in zip(paths, patches, strict=True)}
        more = {"resources": ["../../base"], "patches": paths}
        out[f"overlays/{name}/kustomization.yaml"] = [_kustomization(more)]
    return out


def _kustomization(more: Object) -> Object:
    head = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": NAMESPACE}
    return head | more


class _Plain(yaml.SafeDumper):
    """YAML without anchors, which is easier to read."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def text(documents: list[Object]) -> str:
    """One file of YAML."""
    return _HEAD + yaml.dump_all(documents, Dumper=_Plain, sort_keys=False, width=116)


def main() -> None:
    """Write all files, and remove obsolete ones."""
    made = {HERE / name: text(documents) for name, documents in files().items()}
    for path in HERE.glob("*/**/*.yaml"):
        if path not in made:
            path.unlink()
    for path, content in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


if __name__ == "__main__":
    main()
