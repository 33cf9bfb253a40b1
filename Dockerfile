# For a machine with an NVIDIA GPU; docs/gpu.md has the commands that follow.
# docker build -t deepprune . && docker run --gpus all --ipc=host -it -v "$PWD/runs:/deepprune/runs" deepprune
# Not built by us: neither Docker nor a GPU was at hand. The installation line is that of docs/gpu.md.
FROM python:3.12-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends git make gcc g++ \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /deepprune
COPY . .
RUN pip install --no-cache-dir -c constraints.txt -e '.[demo,vllm,questions]'
CMD ["bash"]
