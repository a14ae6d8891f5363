"""Tracks and fused faces against the truth of made-up scenes."""
from __future__ import annotations
import numpy as np
from scipy.optimize import linear_sum_assignment
from fhrt.faces.detect import Detection

NEAR = 0.5 

def simulate(scene, rng, miss=0.15, jitter=0.05, false_alarms=0.3):
    out = []
    h, w = scene.frames[0].shape[:2]
    for boxes, visible in zip(scene.boxes, scene.visible):
        dets = []
        for box, seen in zip(boxes, visible):
            if not seen or rng.random() < miss: continue
            size = box[2:] - box[:2]
            c = (box[2:] + box[:2]) / 2 + rng.normal(0, jitter, 2) * size[0]
            s = size * np.exp(rng.normal(0, jitter))
            dets.append(Detection(tuple((*(c - s/2), *(c + s/2))), float(np.clip(rng.normal(.7,.2), .05, 1))))
        for _ in range(rng.poisson(false_alarms)):
            c = rng.random(2) * [w, h]; s = np.array([1, 1.26]) * rng.uniform(10, 30)
            dets.append(Detection(tuple((*(c - s/2), *(c + s/2))), float(rng.uniform(0.05, .65))))
        out.append(dets)
    return out

def identity_scores(truth, visible, tracks):
    """truth [T,M,4]; tracks: list per frame of (id, box). IDF1 (Ristani 2016), switches, fragments, coverage, precision, error."""
    T, M = visible.shape
    ids = sorted({i for f in tracks for i, _ in f})
    col = {i: n for n, i in enumerate(ids)}
    overlap = np.zeros((M, max(len(ids), 1)))
    last = [None]*M; was=[False]*M; ever=[False]*M
    switches = frags = covered = reported = 0; errors=[]; serr=[]
    for t in range(T):
        reported += len(tracks[t])
        rows = np.flatnonzero(visible[t])
        now = [False]*M
        if len(rows) and tracks[t]:
            tb = truth[t, rows]; pb = np.array([b for _, b in tracks[t]])
            tw = (tb[:,2]-tb[:,0])
            d = np.hypot(*((tb[:,None,:2]+tb[:,None,2:]-pb[None,:,:2]-pb[None,:,2:])/2).transpose(2,0,1))/tw[:,None]
            ratio = np.abs(np.log((pb[:,2]-pb[:,0])[None]/tw[:,None]))
            ok = (d < NEAR) & (ratio < np.log(1.6))
            r, c = linear_sum_assignment(np.where(ok, d, 1e3))
            for a, b in zip(r, c):
                if not ok[a,b]: continue
                m, i = rows[a], tracks[t][b][0]
                covered += 1; overlap[m, col[i]] += 1; now[m]=True
                errors.append(d[a,b]); serr.append(ratio[a,b])
                if last[m] is not None and last[m] != i: switches += 1
                last[m] = i
        for m in rows:
            if not now[m] and was[m]: frags += 1   # was covered, now not while visible
            was[m] = now[m]
    r, c = linear_sum_assignment(-overlap)
    idtp = overlap[r, c].sum()
    total = visible.sum()
    return dict(idf1=2*idtp/(total+reported), coverage=covered/total, precision=covered/max(reported,1), switches=switches, frags=frags, ids=len(ids), err=float(np.mean(errors)) if errors else np.nan, serr=float(np.mean(serr)) if serr else np.nan)
