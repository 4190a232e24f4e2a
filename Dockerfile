# Skytrail in a small image; its data is in /data.

FROM rust:1-bookworm AS build
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/source/target \
    --mount=type=cache,target=/usr/local/cargo/registry \
    cargo build --release --locked --bin skytrail && cp target/release/skytrail /skytrail

FROM debian:bookworm-slim
# Authorities to trust: files may be in a bucket.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --system --uid 10001 skytrail && install -d -o skytrail /data
COPY --from=build /skytrail /usr/local/bin/skytrail
USER skytrail
VOLUME /data
ENV DATA_DIR=/data HOST=:3000
EXPOSE 3000
CMD ["skytrail", "serve"]
