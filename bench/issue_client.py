"""Median and 99th percentile of one click plus one coupon request, as the peers' client.py asks its service, and of the request
alone; and of that client's bare click, which its own time includes: issue_client.py DSN CLICKS PREFIX"""
import sys, time
import numpy as np, psycopg
dsn, clicks, prefix = sys.argv[1], int(sys.argv[2]), sys.argv[3]; rng = np.random.default_rng(0); both, alone, bare = [], [], []; offers = 0
with psycopg.connect(dsn, autocommit=True) as c:
    for i in range(clicks):
        session = f"{prefix}-{i // 12}"; begin = time.perf_counter()
        c.execute("INSERT INTO click VALUES (%s, now(), 'view', %s)", (session, f"p{rng.integers(7)}")); clicked = time.perf_counter()
        offers += c.execute("SELECT code FROM issue_coupon(%s)", (session,)).fetchone()[0] is not None
        end = time.perf_counter(); both.append(end - begin); alone.append(end - clicked)
    for i in range(clicks):
        begin = time.perf_counter(); c.execute("INSERT INTO peer_click VALUES (%s, now(), %s)", (f"bare-{i // 12}", int(rng.integers(7))))
        bare.append(time.perf_counter() - begin)
ms = lambda times, q: np.percentile(times, q) * 1e3
print(f"coupon_ext: clicks {clicks} median_ms {ms(both, 50):.3f} p99_ms {ms(both, 99):.3f} request_ms {ms(alone, 50):.3f} request_p99_ms {ms(alone, 99):.3f} bare_click_ms {ms(bare, 50):.3f} offers {offers}")
