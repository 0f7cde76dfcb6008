// The nearest triangle on a ray, and whether there is any.

struct Hit {
    float t, u, v;
    int instance, triangle;
};

HD float safe_inverse(float x) { return 1.0f / (fabsf(x) < 1e-12f ? (x < 0 ? -1e-12f : 1e-12f) : x); }

// Return where the ray enters the box, or FAR_AWAY.
HD float enter(const float* lo, const float* hi, V3 o, V3 inverse, float t_max) {
    float a = (lo[0] - o.x) * inverse.x, b = (hi[0] - o.x) * inverse.x;
    float near = least(a, b), far = most(a, b);
    a = (lo[1] - o.y) * inverse.y, b = (hi[1] - o.y) * inverse.y;
    near = most(near, least(a, b)), far = least(far, most(a, b));
    a = (lo[2] - o.z) * inverse.z, b = (hi[2] - o.z) * inverse.z;
    near = most(near, least(a, b)), far = least(far, most(a, b));
    // Rounding must not lose a ray that runs along a face.
    return near <= far * 1.0000004f && far > 0 && near < t_max ? most(near, 0.0f) : FAR_AWAY;
}

HD int intersect(const Triangle& f, V3 o, V3 d, float t_min, float t_max, float& t, float& u, float& v) {
    V3 e1 = v3(f.e1), e2 = v3(f.e2);
    V3 p = cross(d, e2);
    float det = dot(e1, p);
    if (fabsf(det) < 1e-20f) return 0;
    float inverse = 1.0f / det;
    V3 s = o - v3(f.v);
    u = dot(s, p) * inverse;
    if (u < 0 || u > 1) return 0;
    V3 q = cross(s, e1);
    v = dot(d, q) * inverse;
    if (v < 0 || u + v > 1) return 0;
    t = dot(e2, q) * inverse;
    return t > t_min && t < t_max;
}

HD void corner_uv(const World& w, int triangle, float u, float v, float& tu, float& tv) {
    const Corner* c = w.corners + 3 * (size_t)triangle;
    tu = c[0].u * (1 - u - v) + c[1].u * u + c[2].u * v;
    tv = c[0].v * (1 - u - v) + c[1].v * u + c[2].v * v;
}

// Whether a ray goes through the material at this point: a hole in a leaf's texture, or glass for rays to a light.
HD int passes(const World& w, const Material& m, int triangle, float u, float v, int occlusion) {
    if (occlusion && m.opacity < 0.5f) return 1;
    if (m.cutout > 0.5f && m.texture >= 0) {
        float tu, tv;
        corner_uv(w, triangle, u, v, tu, tv);
        return alpha(w, (int)m.texture, tu * m.scale_u + m.shift_u, tv * m.scale_v + m.shift_v) < 128;
    }
    return 0;
}

// Trace a ray through an instance; return whether something nearer than hit.t was found.
HD int trace_mesh(const World& w, const Instance& instance, int number, V3 o, V3 d, float t_min, int occlusion, Hit& hit) {
    V3 lo = to_local_point(instance, o), ld = to_local_vector(instance, d);
    V3 inverse = v3(safe_inverse(ld.x), safe_inverse(ld.y), safe_inverse(ld.z));
    int stack[48], depth = 0, found = 0, current = instance.root;
    while (true) {
        if (current < 0) {
            int first = leaf_first(current), count = leaf_count(current);
            for (int i = first; i < first + count; i++) {
                float t, u, v;
                const Triangle& f = w.triangles[i];
                if (!intersect(f, lo, ld, t_min, hit.t, t, u, v)) continue;
                if (instance.special && passes(w, w.materials[instance.material + f.slot], i, u, v, occlusion)) continue;
                hit.t = t, hit.u = u, hit.v = v, hit.instance = number, hit.triangle = i;
                found = 1;
                if (occlusion == 1) return 1;
            }
        } else {
            const Node& n = w.nodes[current];
            float a = enter(n.lo0, n.hi0, lo, inverse, hit.t), b = enter(n.lo1, n.hi1, lo, inverse, hit.t);
            if (a < FAR_AWAY && b < FAR_AWAY) {
                int near = a <= b ? n.child0 : n.child1, far = a <= b ? n.child1 : n.child0;
                if (depth < 48) stack[depth++] = far;
                current = near;
                continue;
            }
            if (a < FAR_AWAY || b < FAR_AWAY) {
                current = a < FAR_AWAY ? n.child0 : n.child1;
                continue;
            }
        }
        if (depth == 0) return found;
        current = stack[--depth];
    }
}

// occlusion: 0: the nearest hit; 1: any opaque one will do; 2: the nearest opaque one.
FUNCTION int trace(const World& w, int root, V3 o, V3 d, float t_min, float t_max, int occlusion, Hit& hit) {
    hit.t = t_max;
    hit.instance = -1;
    V3 inverse = v3(safe_inverse(d.x), safe_inverse(d.y), safe_inverse(d.z));
    int stack[40], depth = 0, found = 0, current = root;
    while (true) {
        if (current < 0) {
            int first = leaf_first(current), count = leaf_count(current);
            for (int i = first; i < first + count; i++) {
                if (trace_mesh(w, w.instances[i], i, o, d, t_min, occlusion, hit)) {
                    found = 1;
                    if (occlusion == 1) return 1;
                }
            }
        } else {
            const Node& n = w.top[current];
            float a = enter(n.lo0, n.hi0, o, inverse, hit.t), b = enter(n.lo1, n.hi1, o, inverse, hit.t);
            if (a < FAR_AWAY && b < FAR_AWAY) {
                int near = a <= b ? n.child0 : n.child1, far = a <= b ? n.child1 : n.child0;
                if (depth < 40) stack[depth++] = far;
                current = near;
                continue;
            }
            if (a < FAR_AWAY || b < FAR_AWAY) {
                current = a < FAR_AWAY ? n.child0 : n.child1;
                continue;
            }
        }
        if (depth == 0) return found;
        current = stack[--depth];
    }
}
