// What runs on the host alone: building hierarchies, and questions that furnishing a room asks.

#ifndef __CUDACC__

#include <algorithm>
#include <vector>

namespace {

struct Box {
    float lo[3] = {FAR_AWAY, FAR_AWAY, FAR_AWAY}, hi[3] = {-FAR_AWAY, -FAR_AWAY, -FAR_AWAY};
    void add(const float* l, const float* h) {
        for (int k = 0; k < 3; k++) lo[k] = least(lo[k], l[k]), hi[k] = most(hi[k], h[k]);
    }
    float area() const {
        float x = hi[0] - lo[0], y = hi[1] - lo[1], z = hi[2] - lo[2];
        return x < 0 ? 0 : x * y + y * z + z * x;
    }
};

struct Builder {
    const float *lo, *hi;  // [n, 3]
    int* order;
    Node* nodes;
    int used, first_node, first_leaf, leaf;

    Box bounds(int a, int b) const {
        Box box;
        for (int i = a; i < b; i++) box.add(lo + 3 * order[i], hi + 3 * order[i]);
        return box;
    }
    float middle(int i, int axis) const { return lo[3 * i + axis] + hi[3 * i + axis]; }

    // Split [a, b): binned surface area heuristic, halves where that fails or the tree grows too deep.
    int split(int a, int b, int depth) const {
        const int BINS = 16;
        float best = FAR_AWAY;
        int best_axis = -1, best_bin = 0;
        float low[3], high[3];
        for (int axis = 0; axis < 3; axis++) {
            low[axis] = FAR_AWAY, high[axis] = -FAR_AWAY;
            for (int i = a; i < b; i++) {
                float m = middle(order[i], axis);
                low[axis] = least(low[axis], m), high[axis] = most(high[axis], m);
            }
            if (!(high[axis] - low[axis] > 1e-9f) || depth > 24) continue;
            Box boxes[BINS];
            int counts[BINS] = {0};
            float scale = BINS / (high[axis] - low[axis]);
            for (int i = a; i < b; i++) {
                int bin = std::min(BINS - 1, std::max(0, (int)((middle(order[i], axis) - low[axis]) * scale)));
                boxes[bin].add(lo + 3 * order[i], hi + 3 * order[i]);
                counts[bin]++;
            }
            float right[BINS];
            Box box;
            int count = 0;
            for (int k = BINS - 1; k > 0; k--) {
                box.add(boxes[k].lo, boxes[k].hi), count += counts[k];
                right[k] = box.area() * count;
            }
            box = Box(), count = 0;
            for (int k = 0; k < BINS - 1; k++) {
                box.add(boxes[k].lo, boxes[k].hi), count += counts[k];
                float cost = box.area() * count + right[k + 1];
                if (count > 0 && count < b - a && cost < best) best = cost, best_axis = axis, best_bin = k;
            }
        }
        if (best_axis >= 0) {
            float scale = BINS / (high[best_axis] - low[best_axis]);
            int* cut = std::partition(order + a, order + b, [&](int i) {
                int bin = std::min(BINS - 1, std::max(0, (int)((middle(i, best_axis) - low[best_axis]) * scale)));
                return bin <= best_bin;
            });
            int at = (int)(cut - order);
            if (at > a && at < b) return at;
        }
        int axis = 0;
        for (int k = 1; k < 3; k++)
            if (high[k] - low[k] > high[axis] - low[axis]) axis = k;
        int at = (a + b) / 2;
        std::nth_element(order + a, order + at, order + b, [&](int i, int j) { return middle(i, axis) < middle(j, axis); });
        return at;
    }

    int build(int a, int b, int depth) {  // -> child
        if (b - a <= leaf) return ~((first_leaf + a) * 8 + (b - a - 1));
        return inner(a, b, depth);
    }
    int inner(int a, int b, int depth) {
        int me = used++;
        Node n;
        memset(&n, 0, sizeof n);
        if (b - a == 1) {  // a root with one leaf: the other child is empty
            Box box = bounds(a, b), none;
            n.child0 = n.child1 = ~((first_leaf + a) * 8);
            set(n, box, none);
            nodes[me] = n;
            return first_node + me;
        }
        int at = split(a, b, depth);
        set(n, bounds(a, at), bounds(at, b));
        n.child0 = build(a, at, depth + 1);
        n.child1 = build(at, b, depth + 1);
        nodes[me] = n;
        return first_node + me;
    }
    static void set(Node& n, const Box& x, const Box& y) {
        memcpy(n.lo0, x.lo, 12), memcpy(n.hi0, x.hi, 12), memcpy(n.lo1, y.lo, 12), memcpy(n.hi1, y.hi, 12);
    }
};

float square_distance_to_box(const float* lo, const float* hi, V3 p) {
    float x = most(most(lo[0] - p.x, p.x - hi[0]), 0), y = most(most(lo[1] - p.y, p.y - hi[1]), 0), z = most(most(lo[2] - p.z, p.z - hi[2]), 0);
    return lo[0] > hi[0] ? FAR_AWAY : x * x + y * y + z * z;
}

// Ericson, Real-Time Collision Detection, 5.1.5.
float square_distance_to_triangle(const Triangle& f, V3 p) {
    V3 a = v3(f.v), ab = v3(f.e1), ac = v3(f.e2), ap = p - a;
    float d1 = dot(ab, ap), d2 = dot(ac, ap);
    V3 c = a;
    V3 bp = ap - ab, cp = ap - ac;
    float d3 = dot(ab, bp), d4 = dot(ac, bp), d5 = dot(ab, cp), d6 = dot(ac, cp);
    float va = d3 * d6 - d5 * d4, vb = d5 * d2 - d1 * d6, vc = d1 * d4 - d3 * d2;
    if (d1 <= 0 && d2 <= 0) c = a;
    else if (d3 >= 0 && d4 <= d3) c = a + ab;
    else if (vc <= 0 && d1 >= 0 && d3 <= 0) c = a + ab * (d1 / (d1 - d3));
    else if (d6 >= 0 && d5 <= d6) c = a + ac;
    else if (vb <= 0 && d2 >= 0 && d6 <= 0) c = a + ac * (d2 / (d2 - d6));
    else if (va <= 0 && d4 - d3 >= 0 && d5 - d6 >= 0) c = a + ab + (ac - ab) * ((d4 - d3) / (d4 - d3 + d5 - d6));
    else {
        float scale = 1 / (va + vb + vc + 1e-30f);
        c = a + ab * (vb * scale) + ac * (vc * scale);
    }
    return dot(p - c, p - c);
}

}  // namespace

extern "C" {

// Build a hierarchy over n boxes; leaves of at most `leaf` of them. Returns the number of nodes (at most max(1, n - 1));
// order [n] becomes the order in which leaves number them.
int build_hierarchy(const float* lo, const float* hi, int n, int leaf, int first_node, int first_leaf, Node* nodes, int* order) {
    for (int i = 0; i < n; i++) order[i] = i;
    Builder b = {lo, hi, order, nodes, 0, first_node, first_leaf, leaf};
    b.inner(0, n, 0);
    return b.used;
}

// Cast rays: t [n] (FAR_AWAY: nothing), instance [n], normal [n, 3] that looks back along the ray.
void cast(WORLD_ARGUMENTS, int root, int n, const float* o, const float* d, float t_max, float* t, int* instance, float* normal) {
    World w = WORLD;
    for (int i = 0; i < n; i++) {
        Hit hit;
        V3 from = v3(o + 3 * i), to = v3(d + 3 * i), face = v3(0, 0, 0);
        int found = trace(w, root, from, to, 0, t_max, 0, hit);
        t[i] = found ? hit.t : FAR_AWAY, instance[i] = found ? hit.instance : -1;
        if (found) {
            const Triangle& f = triangles[hit.triangle];
            face = normal_to_world(instances[hit.instance], cross(v3(f.e1), v3(f.e2)));
            if (dot(face, to) > 0) face = face * -1.0f;
        }
        normal[3 * i] = face.x, normal[3 * i + 1] = face.y, normal[3 * i + 2] = face.z;
    }
}

// The distance from each of n points to each of m instances, metres, where less than reach; else reach: [n, m]. It is
// exact for instances without shear; scaled ones count by their smallest scale.
void distances(WORLD_ARGUMENTS, int m, int n, const float* points, float reach, float* out) {
    World w = WORLD;
    (void)w;
    for (int j = 0; j < m; j++) {
        const Instance& instance = instances[j];
        float scale = 0;
        for (int k = 0; k < 3; k++) scale = most(scale, sqrtf(dot(v3(instance.to_local + 4 * k), v3(instance.to_local + 4 * k))));
        for (int i = 0; i < n; i++) {
            V3 p = to_local_point(instance, v3(points + 3 * i));
            float best = reach * scale * reach * scale;
            std::vector<int> stack = {instance.root};
            while (!stack.empty()) {
                int at = stack.back();
                stack.pop_back();
                if (at < 0) {
                    for (int k = leaf_first(at); k < leaf_first(at) + leaf_count(at); k++) best = least(best, square_distance_to_triangle(triangles[k], p));
                    continue;
                }
                const Node& node = nodes[at];
                if (square_distance_to_box(node.lo0, node.hi0, p) < best) stack.push_back(node.child0);
                if (square_distance_to_box(node.lo1, node.hi1, p) < best) stack.push_back(node.child1);
            }
            out[(size_t)i * m + j] = sqrtf(best) / scale;
        }
    }
}
}

#endif
