# The server and the dotmax command on Debian 12, with what they need at run time and no more.
#
#   docker build -t dotmax .
#   docker run -p 50051:50051 -p 9464:9464 dotmax                                  # serves the sample
#   docker run -p 50051:50051 -v "$PWD:/data:ro" dotmax --matrix=/data/mine.npy

# Debian 12 of one day: the same base each time. A newer day, or a digest: --build-arg BASE=debian@sha256:...
ARG BASE=debian:bookworm-20260824-slim

FROM ${BASE} AS build
WORKDIR /src
COPY deploy/install-deps.sh deploy/
RUN deploy/install-deps.sh build
COPY . .
RUN cmake --preset release && cmake --build --preset release --parallel "$(nproc)" \
  && cmake --install build/release --prefix /opt/dotmax --component runtime --strip

FROM ${BASE}
ARG VERSION=0.1.0
RUN apt-get update \
  && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    libabsl20220623 libcivetweb1 libdnnl2 libgmp10 libgomp1 libgrpc++1.51 libhdf5-103-1 libhwy1 libmpfr6 \
    libprometheus-cpp-core1.0 libprotobuf32 libssl3 \
  && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
COPY --from=build /opt/dotmax /usr/local

LABEL org.opencontainers.image.title="dotmax" \
  org.opencontainers.image.description="Exact maximum inner product search over gRPC" \
  org.opencontainers.image.version="${VERSION}" \
  org.opencontainers.image.licenses="Apache-2.0"

USER 65532:65532
EXPOSE 50051 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s CMD ["dotmax", "health"]
ENTRYPOINT ["dotmax-server"]
CMD ["--matrix=/usr/local/share/dotmax/sample/glove-10k.npy"]
