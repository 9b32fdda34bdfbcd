# Page and API of a trained model, on CPU. Build it from the root of the repository:
#   docker build --build-arg RUN=runs/quickstart -t classifier .
#   docker run --rm -p 7860:7860 -e API_KEY=secret classifier
FROM python:3.12-slim
ARG RUN=runs/quickstart

RUN useradd --create-home --uid 1000 server
WORKDIR /home/server/application
COPY requirements.txt .
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "torch>=2.10,<3" "torchvision>=0.25,<1" \
    && pip install --no-cache-dir -r requirements.txt
COPY --chown=server:server app app
COPY --chown=server:server data data
COPY --chown=server:server models models
COPY --chown=server:server ${RUN} run

USER server
ENV HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/readyz', timeout=4)"
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "app", "serve", "run", "--host", "0.0.0.0"]
