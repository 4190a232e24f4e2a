# syntax=docker/dockerfile:1
# Skytrail in a small image, with its data in /data.

FROM rust:1-bookworm AS build
WORKDIR /source
COPY . .
# Caches keep downloads and compiled dependencies from build to build.
RUN --mount=type=cache,target=/source/target \
    --mount=type=cache,target=/usr/local/cargo/registry \
    cargo build --release --locked --bin skytrail && cp target/release/skytrail /skytrail

# The chat's plugin in Python, for docker-compose.yml.
FROM python:3.11-slim-bookworm AS plugin
WORKDIR /plugin
COPY sdks/python sdks/python
RUN --mount=type=cache,target=/root/.cache/pip pip install ./sdks/python
COPY examples/chat examples/chat
COPY sdks/live/src sdks/live/src
COPY examples/compose examples/compose
RUN useradd --system --uid 10002 plugin
USER plugin
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
CMD ["python", "examples/chat/plugin.py"]

FROM debian:bookworm-slim
# Trusted certificate authorities, because files may be in a bucket.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --system --uid 10001 skytrail && install -d -o skytrail /data
COPY --from=build /skytrail /usr/local/bin/skytrail
USER skytrail
VOLUME /data
ENV DATA_DIR=/data HOST=:3000
EXPOSE 3000
CMD ["skytrail", "serve"]
