# Tracklet without windows, on the CPU or with CUDA (docs/install.md, docs/gpu.md):
#   docker build -t tracklet .
#   docker build -t tracklet-cuda --build-arg 'RUNTIME=onnxruntime-gpu[cuda,cudnn]' .
#   docker run --rm -u "$(id -u):$(id -g)" -v "$PWD:/data" tracklet video.mp4 --out tracks.txt
FROM python:3.12-slim
ARG RUNTIME=onnxruntime
# What the container toolkit passes of the GPU driver; without effect on the CPU.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY requirements-headless.txt /src/
RUN pip install --no-cache-dir -r /src/requirements-headless.txt "$RUNTIME"
COPY . /src
RUN pip install --no-cache-dir --no-deps /src
WORKDIR /data
ENTRYPOINT ["track"]
