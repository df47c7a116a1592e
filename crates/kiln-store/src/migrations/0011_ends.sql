-- The line of the call that began an operation tells how the operation ended.
CREATE INDEX audit_by_operation ON audit(operation_id) WHERE operation_id IS NOT NULL;
