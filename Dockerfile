# docker build -t fcnseg .                                       (CPU)
# docker build -t fcnseg --build-arg TORCH=cu128 .               (CUDA 12.8; run with --gpus all)
# docker run --rm -v "$PWD:/work" fcnseg infer photo.jpg -m nuclei
FROM python:3.13-slim-bookworm
ARG TORCH=cpu
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 1000 fcnseg
COPY . /src
RUN pip install --no-cache-dir -c /src/constraints.txt torch torchvision \
      --index-url "https://download.pytorch.org/whl/${TORCH}" \
      --extra-index-url https://pypi.org/simple \
 && pip install --no-cache-dir -c /src/constraints.txt "/src[onnx,serve]" \
 && rm -rf /src
USER fcnseg
WORKDIR /work
ENTRYPOINT ["fcnseg"]
