// What a hit looks like: texture coordinates, colour, light.

struct Surface {
    V3 point, normal, face;  // face: the triangle's own normal; both look back along the ray
    V3 colour, glow;         // linear
    float specular, shininess, mirror, opacity;
};

// Project onto the plane that a normal faces: coordinates in metres, as of a box.
HD void box_coordinates(V3 p, V3 n, float& u, float& v) {
    float x = fabsf(n.x), y = fabsf(n.y), z = fabsf(n.z);
    if (z >= x && z >= y) {
        u = p.x, v = p.y;
    } else if (x >= y) {
        u = p.y, v = p.z;
    } else {
        u = p.x, v = p.z;
    }
}

// footprint: the pixel's width over the distance.
FUNCTION Surface surface_at(const World& w, const Place& place, const Hit& hit, V3 o, V3 d, float footprint) {
    Surface s;
    const Instance& instance = w.instances[hit.instance];
    const Triangle& f = w.triangles[hit.triangle];
    const Material& m = w.materials[instance.material + f.slot];
    s.point = o + d * hit.t;
    float u = hit.u, v = hit.v, length = sqrtf(dot(d, d));
    V3 local_face = cross(v3(f.e1), v3(f.e2));
    s.face = normal_to_world(instance, local_face);
    const Corner* c = w.corners + 3 * (size_t)hit.triangle;
    V3 n = unpack_normal(c[0].normal) * (1 - u - v) + unpack_normal(c[1].normal) * u + unpack_normal(c[2].normal) * v;
    s.normal = normal_to_world(instance, n);
    if (dot(s.face, d) > 0) s.face = s.face * -1.0f;
    if (dot(s.normal, s.face) < 0) s.normal = s.normal * -1.0f;
    // Smooth normals may look away from the viewer near an outline.
    float facing = -dot(s.normal, d) / length;
    if (facing < 0.05f) {
        s.normal = unit(s.normal + d * ((facing - 0.05f) / length));
        facing = 0.05f;
    }
    float slant = -dot(s.face, d) / length;
    float width = footprint * hit.t * length / sqrtf(most(slant, 0.06f));
    V3 colour = v3(1, 1, 1);
    int number = (int)m.texture;
    if (number >= 0) {
        const Texture& t = w.textures[number];
        float tu, tv, spread, size = sqrtf((float)t.width * t.height);
        int mode = (int)m.mode;
        if (mode == PANORAMA) {
            V3 away = s.point - v3(place.centre);
            float r = sqrtf(dot(away, away)) + 1e-6f;
            tu = -(atan2f(away.y, away.x) / (2 * PI) + m.shift_u);
            tv = least(acosf(most(-1.0f, least(1.0f, away.z / r))) / PI, 0.999f);
            spread = width / r * t.width / (2 * PI);
        } else {
            float scale = sqrtf(fabsf(m.scale_u * m.scale_v));
            if (mode == MESH_UV) {
                corner_uv(w, hit.triangle, u, v, tu, tv);
                spread = width * f.density * instance.shrink * scale * size;
            } else {
                V3 at = mode == WORLD_METRES ? s.point : to_local_point(instance, s.point);
                box_coordinates(at, mode == WORLD_METRES ? s.face : local_face, tu, tv);
                spread = width * (mode == WORLD_METRES ? 1.0f : instance.shrink) * scale * size;
            }
            tu = tu * m.scale_u + m.shift_u;
            tv = tv * m.scale_v + m.shift_v;
        }
        colour = sample(w, number, tu, 1.0f - tv, spread, m.mirrored > 0.5f);
        if (mode == PANORAMA) colour = sample(w, number, tu, tv, spread, 0);
    }
    V3 tint = v3(m.tint);
    colour = tint * (v3(1, 1, 1) * (1 - m.amount) + colour * (m.amount * m.gain));
    s.colour = linear(v3(least(colour.x, 1), least(colour.y, 1), least(colour.z, 1)));
    s.glow = s.colour * m.emission;
    s.specular = m.specular, s.shininess = m.shininess, s.opacity = m.opacity;
    // Fresnel, after Schlick.
    float grazing = 1 - facing, power = grazing * grazing * grazing * grazing * grazing;
    s.mirror = m.mirror > 0 ? m.mirror + (1 - m.mirror) * power * least(1.0f, 4 * m.mirror) : 0;
    return s;
}

HD V3 ambient(const Place& p, V3 n) { return mix(v3(p.below), v3(p.above), n.z * 0.5f + 0.5f); }

// Light from a lamp that arrives at a point: the part that is scattered and the part that is mirrored.
HD void lamp(const Light& l, V3 point, V3 normal, V3 view, float shininess, float& diffuse, float& gloss) {
    V3 to = v3(l.centre) - point;
    float square = dot(to, to) + 1e-4f;
    to = to * (1.0f / sqrtf(square));
    float cosine = dot(to, normal), strength = 1.0f / (0.25f + square);
    V3 ahead = v3(l.normal);
    if (dot(ahead, ahead) > 0.25f) strength *= most(0.0f, -dot(ahead, to)) * 2.0f;
    diffuse = strength * most(cosine, 0.0f);
    V3 half_way = unit(to - view);
    gloss = cosine > 0 ? strength * expf(shininess * (dot(half_way, normal) - 1)) : 0;
}

// A hit seen in a mirror: light without shadows.
HD V3 plain_radiance(const World& w, const Place& place, const Surface& s, V3 d) {
    V3 light = ambient(place, s.normal) * 0.75f;
    for (int k = 0; k < place.lights; k++) {
        const Light& l = w.lights[place.light + k];
        float diffuse, gloss;
        lamp(l, s.point, s.normal, unit(d), s.shininess, diffuse, gloss);
        light = light + v3(l.power) * (0.7f * diffuse);
    }
    return s.colour * light + s.glow;
}

// Where a ray leaves the scene: the sphere that carries the panorama. Returns its t.
HD float sky_distance(const Place& p, V3 o, V3 d) {
    V3 c = o - v3(p.centre);
    float a = dot(d, d), b = dot(c, d), q = dot(c, c) - p.radius * p.radius;
    return (-b + sqrtf(most(b * b - a * q, 0.0f))) / a;
}
FUNCTION V3 sky(const World& w, const Place& p, V3 o, V3 d, float footprint) {
    if (p.panorama < 0) return v3(p.above);
    float t = sky_distance(p, o, d);
    return panorama(w, p, o + d * t - v3(p.centre), footprint);
}
