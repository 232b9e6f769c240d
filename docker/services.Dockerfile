# Gateway, workers and the clock, without torch, models and build tools. See docs/deploy/images.md.
#
#   docker build --file docker/services.Dockerfile --tag lyra-services .
#   docker run lyra-services python -m services.worker --help

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
COPY requirements/services.txt requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    python -m pip install --no-deps --require-hashes --no-build-isolation --target /opt/packages \
        --requirement requirements/services.txt
# Of model_core only what decodes media, validates options and inspects text, nothing that runs models.
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY model_core/__init__.py model_core/adapter_choice.py model_core/errors.py model_core/ffmpeg.py model_core/
COPY model_core/engine/__init__.py model_core/engine/sampling_params.py model_core/engine/
COPY model_core/text/__init__.py model_core/text/repetition.py model_core/text/
COPY model_core/audio/ model_core/audio/
COPY model_core/vision/__init__.py model_core/vision/image.py model_core/vision/png.py model_core/vision/video.py model_core/vision/
COPY protos/lyra/ protos/lyra/
COPY services/ services/
COPY cli/ cli/
RUN python -m pip install --no-deps --no-index --no-build-isolation --no-cache-dir --target /opt/lyra .

FROM base
# No packaging tools remain. The user owns the home, so that a new volume there belongs to the user as well.
RUN python -m pip uninstall --yes --quiet --root-user-action=ignore pip setuptools wheel \
    && groupadd --gid 10001 lyra \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/lyra --no-create-home --shell /usr/sbin/nologin lyra \
    && install --directory --owner=10001 --group=10001 --mode=0750 /var/lib/lyra
COPY --link --from=build /opt/packages /opt/packages
COPY --link --from=build /opt/lyra /opt/lyra
# PYTHONSAFEPATH: import nothing from the working directory, which is a volume. ORT_DISABLE_TELEMETRY: ONNX Runtime
# sends telemetry by default.
ENV PATH=/opt/lyra/bin:/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONPATH=/opt/lyra:/opt/packages \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MALLOC_ARENA_MAX=2 \
    ORT_DISABLE_TELEMETRY=1 \
    HOME=/var/lib/lyra \
    LYRA_HOME=/var/lib/lyra \
    LYRA_HOST=0.0.0.0 \
    LYRA_PORT_FILE=/tmp/lyra-ports.json \
    LYRA_LOG_FORMAT=json
WORKDIR /var/lib/lyra
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "-m", "services.shared.rpc.healthcheck"]
CMD ["python", "-m", "services.gateway"]

ARG BASE
ARG BASE_DIGEST
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="lyra-services" \
      org.opencontainers.image.description="Lyra: HTTP gateway, workers of long-audio jobs and the clock" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.base.name="${BASE}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}"
