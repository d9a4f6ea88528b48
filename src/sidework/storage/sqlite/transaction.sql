-- Statements of a handler's transaction. Their very texts are refused to handlers: see pool.py.

-- :name begin
BEGIN IMMEDIATE;

-- :name commit
COMMIT;

-- :name roll_back
ROLLBACK;

-- :name fence
SELECT EXISTS (SELECT 1 FROM background_service_jobs WHERE id = ? AND claims = ? AND status = 'RUNNING');
