"""Forty combinations of the chart's switches that cover every pair of settings (pairwise testing)."""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

COUNT = 40
MODELS = ("speechEncoder", "visionEncoder", "languageModel", "speechSynthesizer")
WORKERS = ("plan", "clips", "answers")

Values = dict[str, Any]

_PROMETHEUS = {"monitoring": {"prometheus": {"address": "http://prometheus:9090"}}}
_GPU_MEMORY = {"speechEncoder": "12Gi", "visionEncoder": "8Gi", "languageModel": "32Gi", "speechSynthesizer": "6Gi"}
_CHECKPOINT = {
    "preset": "base",
    **{
        name: {
            "gpu": {"count": 1, "resource": "nvidia.com/gpu", "memoryGiB": 80},
            "resources": {"limits": {"cpu": 4, "memory": memory}},
        }
        for name, memory in _GPU_MEMORY.items()
    },
}
_NO_BUDGET = {"podDisruptionBudget": {"enabled": False}}
_MIG = {name: {"gpu": {"resource": "nvidia.com/mig-2g.20gb", "memoryGiB": 0}} for name in MODELS}
_STORE = {"weights": {"source": "objectStore", "cache": {"sizeLimit": "30Gi"}}}
_VOLUME = {"weights": {"source": "volume", "volume": {"existingClaim": "weights", "subPath": "lyra"}}}


def _models(section: Values) -> Values:
    return dict.fromkeys(MODELS, section)


def _workers(section: Values, **more: Any) -> Values:
    return {"worker": {**dict.fromkeys(WORKERS, section), **more}}


def merge(*parts: Mapping[str, Any]) -> Values:
    """Deep merge; later values win."""
    merged: Values = {}
    for part in parts:
        for key, value in part.items():
            old = merged.get(key)
            merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _scaled(mode: str, **more: Any) -> Values:
    return {"autoscaling": {"mode": mode, "minReplicas": 2, "maxReplicas": 6, **more}}


SWITCHES: dict[str, dict[str, Values]] = {
    "weights": {
        "nano": {},
        "nano-store": {**_STORE, "adapters": ["legal", "dialect_2"]},
        "nano-volume": {**_VOLUME, "adapters": ["legal"]},
        "base-store": merge(_CHECKPOINT, _STORE, {"weights": {"cache": {"storageClass": "fast"}}}),
        "base-volume": merge(_CHECKPOINT, _MIG, _VOLUME, {"weights": {"name": "Lyra_Base_9B", "verify": False}}),
        "tiny": {"preset": "tiny"},
    },
    "models": {
        "fixed": _models({"replicas": 2}),
        "hpa": _models(_scaled("hpa")),
        "keda": merge(_PROMETHEUS, _models(_scaled("keda", minReplicas=0, activation=2))),
    },
    "workers": {
        "fixed": {},
        "hpa": _workers(_scaled("hpa")),
        "redis": _workers(_scaled("keda", minReplicas=0)),
        "prometheus": merge(_PROMETHEUS, _workers(_scaled("keda"), trigger="prometheus")),
    },
    "gateway": {
        "one": {"gateway": {"service": {"type": "LoadBalancer", "annotations": {"tier": "public"}}}},
        "hpa": {"gateway": _scaled("hpa")},
        "tls": {"gateway": {"tls": {"existingSecret": "certificate"}}},
    },
    "redis": {
        "bundled": {},
        "secret": {"redis": {"bundled": {"existingSecret": "queue"}}},
        "external": {"redis": {"mode": "external", "external": {"host": "redis.example.com"}}},
        "tls": {
            "redis": {
                "mode": "external",
                "external": {"host": "10.1.2.3", "port": 6380, "database": 2, "tls": True, "existingSecret": "queue"},
            }
        },
    },
    "store": {
        "bundled": {},
        "public": {"objectStore": {"publicEndpoint": "s3.example.com:443", "bundled": {"existingSecret": "store"}}},
        "external": {
            "objectStore": {
                "mode": "external",
                "external": {"endpoint": "s3.example.com", "existingSecret": "store", "secretKeyField": "key"},
            }
        },
        "identity": {"objectStore": {"mode": "external", "external": {"endpoint": "minio:9000", "secure": False}}},
    },
    "secrets": {
        "made": {},
        "named": {
            "keys": {"existingSecret": "keys", "create": False},
            "webhooks": {"existingSecret": "callbacks"},
            "serviceAuth": {
                "token": {"existingSecret": "between-services"},
                "operatorToken": {"existingSecret": "operators"},
                "tls": {"existingSecret": "certificates", "name": "services.lyra.svc"},
            },
            "image": {"pullSecrets": ["registry"]},
        },
    },
    "network": {
        "closed": {},
        "open": {"networkPolicy": {"enabled": False}},
        "named": {
            "networkPolicy": {
                "clients": [{"namespaceSelector": {"matchLabels": {"name": "ingress"}}}],
                "stores": [{"ipBlock": {"cidr": "10.1.0.0/16"}}],
            }
        },
    },
    "entrance": {
        "none": {},
        "ingress": {"ingress": {"enabled": True, "className": "nginx", "host": "lyra.example.com", "tlsSecret": "tls"}},
        "gateway-api": {
            "gatewayApi": {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["lyra.example.com"]}
        },
    },
    "monitoring": {
        "off": {},
        "on": {
            "monitoring": {
                name: {"enabled": True, "labels": {"release": "prometheus"}}
                for name in ("serviceMonitor", "prometheusRule", "dashboard")
            }
        },
    },
    "budgets": {
        "one-away": {},
        "one-stays": {"languageModel": {"podDisruptionBudget": {"minAvailable": "50%"}}},
        "none": merge(
            _models({"podDisruptionBudget": {"enabled": False}}),
            {"gateway": {"podDisruptionBudget": {"enabled": False}}},
        ),
    },
    "training": {"off": {}, "on": {"training": {"enabled": True, "dataClaim": "data", "outClaim": "runs"}}},
    "places": {
        "anywhere": {},
        "chosen": merge(
            _models(
                {
                    "nodeSelector": {"gpu": "yes"},
                    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
                    "priorityClassName": "high",
                    "podAnnotations": {"note": "here"},
                    "rollout": {"maxSurge": 0, "maxUnavailable": 1},
                    "topologySpreadConstraints": [],
                    "extraEnv": [{"name": "HF_HUB_OFFLINE", "value": "1"}],
                }
            ),
            {
                "commonLabels": {"team": "speech"},
                "fullnameOverride": "speech",
                "image": {"services": {"digest": "sha256:" + "a" * 64}, "models": {"tag": "2.0.0"}},
                "gateway": {"settings": {"LYRA_MAX_RUNNING": 128, "LYRA_DOCS": False}},
                "sharedSettings": {"LYRA_MAX_MEDIA_BYTES": 8589934592, "LYRA_OUTBOUND_ALLOW_HTTP": True},
                "worker": {"settings": {"LYRA_KEEP_RATE": 0.8}},
            },
        ),
    },
}


def covering_rows() -> list[dict[str, str]]:
    """The combinations, each a setting for every switch. Built greedily and deterministically."""
    pairs = {frozenset(pair): None for pair in combinations(_settings(), 2) if pair[0][0] != pair[1][0]}
    made: list[dict[str, str]] = []
    while len(made) < COUNT:
        row = dict(sorted(next(iter(pairs)))) if pairs else {}  # starts with an uncovered pair
        for step in range(len(SWITCHES)):
            switch = list(SWITCHES)[(step + len(made)) % len(SWITCHES)]
            if switch not in row:
                names = list(SWITCHES[switch])
                first = (len(made) + len(made) // 12 * step) % len(names)
                turned = names[first:] + names[:first]
                row[switch] = max(turned, key=lambda name: _met(pairs, row, (switch, name)))
        for pair in combinations(row.items(), 2):
            pairs.pop(frozenset(pair), None)
        made.append({switch: row[switch] for switch in SWITCHES})
    if pairs:
        raise AssertionError(f"{COUNT} combinations leave out {len(pairs)} pairs of settings: {next(iter(pairs))}")
    return made


def values_of(row: Mapping[str, str]) -> Values:
    """The values of a combination."""
    return merge(*(SWITCHES[switch][name] for switch, name in row.items()))


def _settings() -> Iterator[tuple[str, str]]:
    return ((switch, name) for switch, names in SWITCHES.items() for name in names)


def _met(pairs: Mapping[frozenset[tuple[str, str]], None], row: Mapping[str, str], option: tuple[str, str]) -> int:
    return sum(frozenset((item, option)) in pairs for item in row.items())
