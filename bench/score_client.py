"""What a user would run instead of coupon.score_sessions: read the log, build the inputs, score with ONNX Runtime in batches.

score_client.py DSN TABLE ROUNDS prints "ready", then a line for every line of its input: sessions, seconds, and
seconds of reading, of inputs and of scoring. The table holds (session, at, kind, page, facts),
page 0 ... 6 and four facts. Inputs and network are those of the peers' churn.py --inputs rich (hidden 64, max pooling over 2
steps, feed-forward 32) with random weights: speed does not depend on them. Made as fast as numpy and pandas make it: one
COPY, no Python loop over rows or sessions, sessions of like length in a batch of 256, so that little is padded. With
INPUTS=by_session the inputs are built a session at a time instead.
"""
import io
import os
import sys
import tempfile
import time

import numpy as np
import pandas as pd
import psycopg
import torch
from torch import nn

KINDS, HIDDEN, BATCH = 7, 64, 256
EDGES = np.array([1, 5, 10, 20, 30, 60, 120, 300, 600])
INPUTS = 5 * KINDS + 3 + len(EDGES) + 1


class Net(nn.Module):
    """The peers' network, read at each session's own last step."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(INPUTS, HIDDEN, batch_first=True)
        self.f1 = nn.Linear(HIDDEN + 4, 32)
        self.f2 = nn.Linear(32, 1)

    def forward(self, x, s, last):
        y, _ = self.rnn(x)
        rows = torch.arange(x.shape[0])
        y = torch.maximum(y[rows, last], y[rows, (last - 1).clamp(min=0)])
        return torch.sigmoid(self.f2(torch.relu(self.f1(torch.cat([y, s], 1)))))


def runtime(threads):
    import onnxruntime as ort
    path = os.path.join(tempfile.mkdtemp(), "churn.onnx")
    torch.manual_seed(0)
    example = (torch.zeros(2, 5, INPUTS), torch.zeros(2, 4), torch.tensor([4, 3]))
    torch.onnx.export(Net().eval(), example, path, input_names=["x", "s", "last"], output_names=["p"], dynamo=False,
                      dynamic_axes={"x": {0: "b", 1: "t"}, "s": {0: "b"}, "last": {0: "b"}, "p": {0: "b"}})
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def read(connection, table):
    """Views before a purchase, in order of session and time."""
    text = io.BytesIO()
    query = f"""COPY (SELECT session, extract(epoch FROM at), CASE kind WHEN 'view' THEN page END, facts[1], facts[2], facts[3], facts[4]
                      FROM {table}) TO STDOUT (FORMAT csv)"""
    with connection.cursor().copy(query) as copy:
        for block in copy:
            text.write(block)
    text.seek(0)
    log = pd.read_csv(text, header=None, names=["session", "at", "page", "s1", "s2", "s3", "s4"], engine="c")
    session = log["session"].to_numpy()
    at = log["at"].to_numpy()
    page = log["page"].to_numpy()
    order = np.lexsort((at, session))
    session, at, page = session[order], at[order], page[order]
    facts = log[["s1", "s2", "s3", "s4"]].to_numpy(np.float32)[order]
    # A purchase has no page: what follows one in its session is dropped with it.
    start = np.flatnonzero(np.r_[True, session[1:] != session[:-1]])
    ends = np.cumsum(np.isnan(page))
    length = np.diff(np.r_[start, len(session)])
    keep = ends == np.repeat(ends[start] - np.isnan(page[start]), length)
    session, at, page, facts = session[keep], at[keep], page[keep].astype(np.int64), facts[keep]
    return session, at, page, facts


def inputs(start, length, at, page):
    """The rich causal inputs of all sessions at once."""
    n = len(page)
    number = np.arange(n)
    begin = np.repeat(start, length)
    first = number == begin
    gap = np.where(first, 0, np.maximum(np.diff(at, prepend=at[:1]), 0))
    kind = np.eye(KINDS, dtype=np.float32)[page]
    before = np.vstack([np.zeros((1, KINDS), np.float32), kind[:-1]])
    before[first] = 0

    def within(sums):
        """Running sums, from zero in each session."""
        earlier = np.vstack([np.zeros((1, KINDS)), sums])[start]
        return sums - np.repeat(earlier, length, axis=0)

    seen = np.maximum.accumulate(np.where(kind > 0, number[:, None], -1), axis=0)
    recent = np.where(seen >= begin[:, None], np.exp((seen - number[:, None]) / 3), 0)
    view = number - begin
    return np.concatenate([
        kind, np.log1p(gap)[:, None] / 5, np.log1p(at - at[begin])[:, None] / 9,
        before, np.log1p(within(np.cumsum(kind, 0))) / 2, recent,
        np.log1p(within(np.cumsum(before * gap[:, None], 0))) / 6,
        np.log1p(view)[:, None] / 3, np.eye(len(EDGES) + 1)[np.searchsorted(EDGES, gap)]], 1).astype(np.float32)


def inputs_by_session(start, length, at, page):
    """The same, a session and a view at a time, as one writes it at first and as the peers' churn.py does."""
    parts = []
    for from_, n in zip(start, length):
        kinds, times = page[from_:from_ + n], at[from_:from_ + n]
        gap = np.zeros(n)
        gap[1:] = np.maximum(np.diff(times), 0)
        kind = np.eye(KINDS)[kinds]
        before = np.vstack([np.zeros(KINDS), kind[:-1]])
        recent, dwell = np.zeros((n, KINDS)), np.zeros((n, KINDS))
        seen, spent = np.full(KINDS, -np.inf), np.zeros(KINDS)
        for i in range(n):
            seen[kinds[i]] = i
            recent[i] = np.exp((seen - i) / 3)
            if i:
                spent[kinds[i - 1]] += gap[i]
            dwell[i] = np.log1p(spent) / 6
        parts.append(np.concatenate([
            kind, np.log1p(gap)[:, None] / 5, np.log1p(times - times[0])[:, None] / 9,
            before, np.log1p(np.cumsum(kind, 0)) / 2, recent, dwell,
            np.log1p(np.arange(n))[:, None] / 3, np.eye(len(EDGES) + 1)[np.searchsorted(EDGES, gap)]], 1))
    return np.concatenate(parts).astype(np.float32)


def score(net, connection, table):
    clock = [time.perf_counter()]
    session, at, page, facts = read(connection, table)
    clock.append(time.perf_counter())
    start = np.flatnonzero(np.r_[True, session[1:] != session[:-1]])
    length = np.diff(np.r_[start, len(session)])
    x = BUILD(start, length, at, page)
    assert x.shape[1] == INPUTS
    clock.append(time.perf_counter())
    churn = np.empty(len(start), np.float32)
    by_length = np.argsort(length, kind="stable")
    for i in range(0, len(start), BATCH):
        rows = by_length[i:i + BATCH]
        n = length[rows]
        steps = np.arange(n.max())
        inside = steps < n[:, None]
        padded = np.zeros((len(rows), n.max(), INPUTS), np.float32)
        padded[inside] = x[(start[rows][:, None] + steps)[inside]]
        churn[rows] = net.run(None, {"x": padded, "s": facts[start[rows]], "last": n - 1})[0][:, 0]
    clock.append(time.perf_counter())
    return list(zip(session[start].tolist(), churn.tolist())), np.diff(clock)


BUILD = inputs_by_session if os.environ.get("INPUTS") == "by_session" else inputs


def main():
    dsn, table, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    net = runtime(int(os.environ.get("THREADS", os.cpu_count())))
    with psycopg.connect(dsn) as connection:
        score(net, connection, table)  # warm
        print("ready", flush=True)
        for _ in range(rounds):
            # One round a line of input, so that bench/score.sh can take turns.
            if not sys.stdin.readline():
                break
            began = time.perf_counter()
            scored, parts = score(net, connection, table)
            seconds = time.perf_counter() - began
            assert np.isfinite([p for _, p in scored]).all()
            print(len(scored), f"{seconds:.4f}", *(f"{p:.4f}" for p in parts), flush=True)


if __name__ == "__main__":
    main()
