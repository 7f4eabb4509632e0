# docker build -t advantageflow .                               for a CPU
# docker build -t advantageflow --build-arg TORCH=cu130 .       for NVIDIA GPUs: docker run --gpus all ...
# docker run -v "$PWD:/work" -v advantageflow-cache:/home/user/.cache advantageflow train scenes
# The hub's token is given when it runs, never when it is built: docker run -e HF_TOKEN ...
FROM python:3.11-slim

ARG TORCH=cpu
# what OpenCV, which reads words, wants
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /source
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt --extra-index-url "https://download.pytorch.org/whl/${TORCH}" torch
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt ".[rewards,data,report]"

# 1000 is the first user of most machines, so that files in /work are his
RUN useradd --uid 1000 --create-home user \
    && mkdir -p /work /home/user/.cache \
    && chown user /work /home/user/.cache
USER user
WORKDIR /work
ENTRYPOINT ["advantageflow"]
CMD ["--help"]
