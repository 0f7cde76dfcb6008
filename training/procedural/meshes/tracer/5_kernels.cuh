// From cameras to pictures in three passes. A view is sampled on the half-pixel lattice: kind 0 are pixel centres, kind
// 1 their corners, kinds 2 and 3 the middles of their sides. With two rays a pixel kinds 0 and 1 are drawn: a pixel is
// half its centre and an eighth of each of its corners, so that five samples smooth it and its depth is exact at its
// centre. With four rays all kinds are drawn.
//
// 1. trace_samples: what each sample sees, one ray of ambient light and one towards a lamp.
// 2. light_samples: those rays, averaged over the 4 x 4 neighbours on the same surface, each of which sent its own.
// 3. develop: pixels of lattice samples.

struct ROW View {
    float pose[12];  // rows of camera to world
    float fx, fy, cx, cy;
    int place;
    float spare[3];
};

struct Sample {
    float t;         // depth along the optical axis; negative: nothing here takes light
    int normal;
    float colour[3]; // linear, what filters it included
    float specular, shininess;
    float extra[3];  // light that is complete already
    float around[3]; // ambient light that arrives
    int shadow;      // lamp * 2 + visible, or -1
};

struct Settings {
    int width, height, views, rays;
    int ambient_rays, shadows;
    int layers;  // of glass
    int spare;
};

HD int lattice_width(const Settings& s, int kind) { return s.width + (kind == 1 || kind == 2); }
HD int lattice_height(const Settings& s, int kind) { return s.height + (kind == 1 || kind == 3); }
HD int lattice_first(const Settings& s, int kind) {
    int first = 0;
    for (int k = 0; k < kind; k++) first += lattice_width(s, k) * lattice_height(s, k);
    return first;
}
HD int lattice_size(const Settings& s) { return lattice_first(s, s.rays); }

// The sample's ray; its direction has unit z in the camera, so that t is depth.
HD void camera_ray(const View& c, int kind, int x, int y, V3& o, V3& d) {
    float px = x + (kind == 1 || kind == 2 ? 0.0f : 0.5f), py = y + (kind == 1 || kind == 3 ? 0.0f : 0.5f);
    float a = (px - c.cx) / c.fx, b = (py - c.cy) / c.fy;
    const float* m = c.pose;
    o = v3(m[3], m[7], m[11]);
    d = v3(m[0] * a + m[1] * b + m[2], m[4] * a + m[5] * b + m[6], m[8] * a + m[9] * b + m[10]);
}

// One of 16 numbers, all different within any 4 x 4 pixels.
HD int pattern(int x, int y) {
    const unsigned long long order = 0x5d7f91b34c6e80a2ULL;
    return (int)(order >> (4 * ((x & 3) + 4 * (y & 3)))) & 15;
}

// Point k of a sequence that fills the unit square evenly (Roberts' R2). No random numbers: the same 16 points in each
// 4 x 4 pixels leave no noise on even surfaces, which would be seen as blotches after averaging.
HD void spread_point(int k, float& a, float& b) {
    a = 0.5f + 0.7548776662f * k;
    b = 0.5f + 0.5698402910f * k;
    a -= floorf(a);
    b -= floorf(b);
}

HD V3 around_normal(V3 n, float a, float b) {
    V3 x = unit(cross(fabsf(n.z) < 0.7f ? v3(0, 0, 1) : v3(1, 0, 0), n));
    V3 y = cross(n, x);
    float r = sqrtf(a), angle = 2 * PI * b;
    return x * (r * cosf(angle)) + y * (r * sinf(angle)) + n * sqrtf(most(0.0f, 1 - a));
}

HD void trace_sample(const World& w, const View* views, const Settings& s, Sample* out, float* depth, int view, int kind, int x, int y) {
    const View& camera = views[view];
    const Place& place = w.places[camera.place];
    V3 o, d;
    camera_ray(camera, kind, x, y, o, d);
    const V3 eye = o;
    float footprint = 0.75f / camera.fx, travelled = 0, seen = -1;
    V3 share = v3(1, 1, 1), extra = v3(0, 0, 0);
    Sample r;
    r.t = -1, r.normal = 0, r.shadow = -1;
    r.specular = r.shininess = 0;
    r.colour[0] = r.colour[1] = r.colour[2] = r.around[0] = r.around[1] = r.around[2] = 0;
    for (int layer = 0; layer <= s.layers; layer++) {
        Hit hit;
        if (!trace(w, place.root, eye, d, travelled, FAR_AWAY, 0, hit)) {
            extra = extra + share * sky(w, place, eye, d, footprint);
            if (seen < 0) seen = place.panorama < 0 ? FAR_AWAY : sky_distance(place, eye, d);
            break;
        }
        Surface f = surface_at(w, place, hit, eye, d, footprint);
        float nudge = 1e-4f + 2e-5f * hit.t;
        if (f.mirror > 0.004f && layer < 2) {
            V3 back = d - f.normal * (2 * dot(d, f.normal));
            V3 start = f.point + f.face * nudge;
            Hit other;
            V3 light;
            if (trace(w, place.root, start, back, 0, FAR_AWAY, 2, other)) {
                Surface g = surface_at(w, place, other, start, back, footprint * (1 + hit.t / most(other.t, 0.05f)));
                light = plain_radiance(w, place, g, back);
            } else {
                light = sky(w, place, start, back, footprint);
            }
            extra = extra + share * light * f.mirror;
            share = share * (1 - f.mirror);
        }
        if (f.opacity < 0.5f && layer < s.layers) {  // glass: a little of its own colour, the rest of what is behind it
            V3 light = ambient(place, f.normal);
            extra = extra + share * f.colour * light * f.opacity;
            V3 clear = mix(v3(1, 1, 1), f.colour * (1.0f / (brightest(f.colour) + 1e-3f)), 0.35f);
            share = share * clear * (1 - f.opacity);
            travelled = hit.t + nudge;
            continue;
        }
        seen = hit.t;
        extra = extra + share * f.glow;
        r.t = hit.t;
        r.normal = pack_normal(f.normal);
        V3 colour = share * f.colour;
        r.colour[0] = colour.x, r.colour[1] = colour.y, r.colour[2] = colour.z;
        r.specular = f.specular * brightest(share), r.shininess = f.shininess;
        V3 start = f.point + f.face * nudge;
        int cell = pattern(x, y);
        V3 sum = v3(0, 0, 0);
        for (int k = 0; k < s.ambient_rays; k++) {
            float a, b;
            spread_point(cell + 16 * (kind + 4 * k), a, b);
            V3 to = around_normal(f.normal, a, b);
            V3 open = ambient(place, to);
            float below_face = dot(to, f.face);
            if (below_face < 0.02f) to = unit(to + f.face * (0.02f - below_face));
            Hit other;
            if (trace(w, place.root, start, to, 0, place.reach, 2, other)) {
                const Instance& i = w.instances[other.instance];
                const Material& m = w.materials[i.material + w.triangles[other.triangle].slot];
                float far = other.t / place.reach;
                // What blocks the light has light of its own; the further, the more of it is like the room's.
                V3 bounce = v3(m.mean) * open * (0.45f + 0.55f * far) + v3(m.mean) * least(m.emission, 3.0f);
                open = mix(bounce, open, far * far);
            }
            sum = sum + open;
        }
        if (s.ambient_rays == 0) sum = ambient(place, f.normal);
        float each = s.ambient_rays > 0 ? 1.0f / s.ambient_rays : 1.0f;
        r.around[0] = sum.x * each, r.around[1] = sum.y * each, r.around[2] = sum.z * each;
        if (s.shadows && place.lights > 0) {
            int lamp_number = (cell + kind) % place.lights;
            const Light& l = w.lights[place.light + lamp_number];
            float a, b;
            spread_point(cell / place.lights + 5 * kind, a, b);
            V3 target = v3(l.centre) + v3(l.a) * (2 * a - 1) + v3(l.b) * (2 * b - 1);
            V3 to = target - start;
            Hit other;
            int dark = dot(to, f.normal) <= 0 || trace(w, place.root, start, to, 0, 0.997f, 1, other);
            r.shadow = 2 * lamp_number + !dark;
        }
        break;
    }
    r.extra[0] = extra.x, r.extra[1] = extra.y, r.extra[2] = extra.z;
    size_t at = (size_t)view * lattice_size(s) + lattice_first(s, kind) + (size_t)y * lattice_width(s, kind) + x;
    out[at] = r;
    if (kind == 0) depth[((size_t)view * s.height + y) * s.width + x] = seen;
}

#define MOST_LIGHTS 6

HD void light_sample(const World& w, const View* views, const Settings& s, const Sample* in, float* light, int view, int kind, int x, int y) {
    const View& camera = views[view];
    const Place& place = w.places[camera.place];
    int width = lattice_width(s, kind), height = lattice_height(s, kind);
    size_t first = (size_t)view * lattice_size(s) + lattice_first(s, kind), at = first + (size_t)y * width + x;
    const Sample& r = in[at];
    V3 total = v3(r.extra);
    if (r.t > 0) {
        V3 o, d;
        camera_ray(camera, kind, x, y, o, d);
        V3 point = o + d * r.t, normal = unpack_normal(r.normal);
        float visible[MOST_LIGHTS], asked[MOST_LIGHTS], weight = 0;
        for (int k = 0; k < MOST_LIGHTS; k++) visible[k] = asked[k] = 0;
        V3 around = v3(0, 0, 0);
        float near = 0.012f * r.t + 0.004f;
        for (int j = -2; j <= 2; j++) {
            for (int i = -2; i <= 2; i++) {
                int px = x + i, py = y + j;
                if (px < 0 || py < 0 || px >= width || py >= height) continue;
                const Sample& q = in[first + (size_t)py * width + px];
                if (q.t <= 0 || dot(unpack_normal(q.normal), normal) < 0.85f) continue;
                V3 qo, qd;
                camera_ray(camera, kind, px, py, qo, qd);
                if (fabsf(dot(qo + qd * q.t - point, normal)) > near) continue;
                // Half weights at the ends: each of the 16 patterns counts alike.
                float share = (i == -2 || i == 2 ? 0.5f : 1.0f) * (j == -2 || j == 2 ? 0.5f : 1.0f);
                weight += share;
                around = around + v3(q.around) * share;
                if (q.shadow >= 0) {
                    int lamp_number = q.shadow >> 1;
                    asked[lamp_number] += share;
                    visible[lamp_number] += share * (q.shadow & 1);
                }
            }
        }
        V3 diffuse = around * (1.0f / weight), shine = v3(0, 0, 0);  // this sample itself has weight 1
        for (int k = 0; k < place.lights; k++) {
            const Light& l = w.lights[place.light + k];
            float scattered, gloss, lit = 1;
            lamp(l, point, normal, unit(d), r.shininess, scattered, gloss);
            // A lamp that no neighbour asked for: as bright as the others here.
            if (s.shadows) {
                float v = 0, n = 0;
                for (int m = 0; m < place.lights; m++) v += visible[m], n += asked[m];
                lit = asked[k] > 0 ? visible[k] / asked[k] : n > 0 ? v / n : 1;
            }
            diffuse = diffuse + v3(l.power) * (scattered * lit);
            shine = shine + v3(l.power) * (gloss * lit);
        }
        total = total + v3(r.colour) * diffuse + shine * r.specular;
    }
    light[3 * at] = total.x, light[3 * at + 1] = total.y, light[3 * at + 2] = total.z;
}

// Light of a pixel from the lattice, linear.
HD V3 pixel_light(const Settings& s, const float* light, int view, int x, int y) {
    const float* base = light + 3 * (size_t)view * lattice_size(s);
    V3 total = v3(base + 3 * ((size_t)y * s.width + x)) * (s.rays == 4 ? 0.25f : s.rays == 2 ? 0.5f : 1.0f);
    if (s.rays == 1) return total;
    const float* corners = base + 3 * (size_t)lattice_first(s, 1);
    float each = s.rays == 4 ? 0.0625f : 0.125f;
    for (int k = 0; k < 4; k++)
        total = total + v3(corners + 3 * ((size_t)(y + (k >> 1)) * (s.width + 1) + x + (k & 1))) * each;
    if (s.rays == 2) return total;
    const float* left = base + 3 * (size_t)lattice_first(s, 2);
    const float* upper = base + 3 * (size_t)lattice_first(s, 3);
    for (int k = 0; k < 2; k++) {
        total = total + v3(left + 3 * ((size_t)y * (s.width + 1) + x + k)) * 0.125f;
        total = total + v3(upper + 3 * ((size_t)(y + k) * s.width + x)) * 0.125f;
    }
    return total;
}

HD void store_light(const Settings& s, const float* light, float* pixels, int view, int x, int y) {
    V3 c = pixel_light(s, light, view, x, y);
    size_t at = 3 * (((size_t)view * s.height + y) * s.width + x);
    pixels[at] = c.x, pixels[at + 1] = c.y, pixels[at + 2] = c.z;
}

// As a camera does: exposure, soft highlights, gamma. tone: exposure and gamma of each view.
HD void develop_pixel(const Settings& s, const float* light, const float* tone, u8* image, int view, int x, int y) {
    V3 c = pixel_light(s, light, view, x, y) * tone[2 * view];
    float value[3] = {c.x, c.y, c.z};
    size_t plane = (size_t)s.width * s.height;
    for (int k = 0; k < 3; k++) {
        float v = value[k] < 0.6f ? most(value[k], 1e-5f) : 1 - 0.4f * expf(-(value[k] - 0.6f) / 0.4f);
        v = powf(v, 1.0f / tone[2 * view + 1]) * 255.0f + 0.5f;
        image[(3 * (size_t)view + k) * plane + (size_t)y * s.width + x] = (u8)least(v, 255.0f);
    }
}
