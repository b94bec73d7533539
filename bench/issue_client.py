"""Median and 99th percentile of one click plus one coupon request, as peers' client.py asks its service: issue_client.py DSN CLICKS PREFIX"""
import sys, time
import numpy as np, psycopg
dsn, clicks, prefix = sys.argv[1], int(sys.argv[2]), sys.argv[3]; rng = np.random.default_rng(0); times = []; coupons = 0
with psycopg.connect(dsn, autocommit=True) as c:
    for i in range(clicks):
        session = f"{prefix}-{i // 12}"; begin = time.perf_counter()
        c.execute("INSERT INTO click VALUES (%s, now(), 'view', %s)", (session, f"p{rng.integers(7)}"))
        coupons += c.execute("SELECT code FROM issue_coupon(%s)", (session,)).fetchone()[0] is not None
        times.append(time.perf_counter() - begin)
print(f"coupon_ext: clicks {clicks} median_ms {np.median(times) * 1e3:.3f} p99_ms {np.percentile(times, 99) * 1e3:.3f} offers {coupons}")
