# The course with its libraries, to the version: it runs without a network.
#   docker build -t vit-course . && docker run --rm -p 8888:8888 vit-course
FROM python:3.11-slim

RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ git make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 learner \
    && install --directory --owner learner /course /opt/venv
USER learner
WORKDIR /course
ENV PATH=/opt/venv/bin:$PATH
RUN python -m venv /opt/venv

# The pins first: a change of the course does not install them again.
COPY --chown=learner requirements.txt ./
RUN grep -v "^-e" requirements.txt > /tmp/pins.txt \
    && python -m pip install --no-cache-dir --disable-pip-version-check -r /tmp/pins.txt

COPY --chown=learner . .
RUN python -m pip install --no-cache-dir --disable-pip-version-check --no-deps -e . \
    && python -m vit_helpers doctor

EXPOSE 8888
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--no-browser", "notebooks"]
