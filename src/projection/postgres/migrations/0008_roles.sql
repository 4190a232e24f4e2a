-- Other programs refer to a role by its `id`, as in v1, and write it in v1's way: a generated column
-- could neither be referred to nor refuse such a write with our own error.
ALTER TABLE _role ALTER id DROP EXPRESSION;
ALTER TABLE _role ALTER id SET NOT NULL, ADD CONSTRAINT _role_id UNIQUE (id);
