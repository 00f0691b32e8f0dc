FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY indexer indexer
COPY abi abi
COPY sql sql
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist . \
    && python -m venv /opt/erc8004-indexer \
    && /opt/erc8004-indexer/bin/pip install --no-cache-dir -c constraints.txt /dist/*.whl

FROM python:3.12-slim
RUN useradd --uid 10001 --create-home indexer \
    && install -d -o indexer -g indexer /data /config
COPY --from=build /opt/erc8004-indexer /opt/erc8004-indexer
ENV PATH=/opt/erc8004-indexer/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    ERC8004_DATA_DIR=/data \
    ERC8004_HTTP_BIND=0.0.0.0:8004
USER indexer
# erc8004.toml is read from here where it is mounted.
WORKDIR /config
VOLUME /data
EXPOSE 8004
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8004/health', timeout=2)"]
ENTRYPOINT ["erc8004-indexer"]
CMD ["run"]
