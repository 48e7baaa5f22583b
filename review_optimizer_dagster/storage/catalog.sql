-- What the catalogue says of the tables and views that analysts get; the rest is in their comments.
-- The fact's dimensions are told by its columns: keys have the same names everywhere.

DELETE FROM catalog_columns;
INSERT INTO catalog_columns
SELECT c.table_name, c.column_name, c.column_index, c.data_type, c.comment
FROM duckdb_columns() c
WHERE c.database_name = current_database() AND c.schema_name = 'main' AND NOT c.internal
    AND (c.table_name IN (SELECT name FROM published_names) OR c.table_name IN (
        SELECT view_name FROM duckdb_views() WHERE database_name = current_database()
            AND NOT internal))
ORDER BY c.table_name, c.column_index;

DELETE FROM catalog;
INSERT INTO catalog
WITH described(name, topic, days, one_row) AS (VALUES
    ('dim_day', 'reviews', 'all', 'a calendar day'),
    ('dim_tenant', 'reviews', 'all', 'a tenant'),
    ('dim_category', 'reviews', 'window', 'a category'),
    ('dim_model', 'requests', 'window', 'a model'),
    ('dim_level', 'cache', 'none', 'a place where labels come from'),
    ('dim_label', 'reviews', 'window', 'a taxonomy, field and label'),
    ('fact_reviews', 'reviews', 'window', 'a published review'),
    ('fact_labels', 'reviews', 'window', 'a published review and field'),
    ('fact_requests', 'requests', 'window', 'a request to a model'),
    ('fact_ledger', 'money', 'window', 'an entry of the ledger'),
    ('fact_daily', 'reviews', 'all', 'a tenant, taxonomy and day'),
    ('daily_costs', 'money', 'all', 'a tenant, taxonomy and day'),
    ('monthly_costs', 'money', 'all', 'a tenant, taxonomy and month'),
    ('spend', 'money', 'window', 'a day, tenant and everything else that money is told apart by'),
    ('spend_by_hour', 'money', 'window', 'a day, tenant and hour of sending'),
    ('spend_forecast', 'money', 'window', 'a tenant and day that the forecast was made on'),
    ('budget_burn', 'money', 'all', 'a tenant, budget period and day'),
    ('pool_savings', 'money', 'window', 'a day, pool and tenant'),
    ('ledger_corrections', 'money', 'window', 'an entry that changed what was booked before'),
    ('tier_costs', 'money', 'window', 'a day, tenant, step of the ladder and model'),
    ('cache_levels', 'cache', 'window', 'a day, tenant, taxonomy, category and level'),
    ('cache_errors', 'cache', 'window', 'a day, tenant, level and class'),
    ('pattern_bounds', 'cache', 'window', 'a day, pattern, label and group of categories'),
    ('published_labels', 'reviews', 'window', 'a published review and field'),
    ('label_mix', 'reviews', 'window', 'a day, tenant, category, field and label'),
    ('daily_quality', 'quality', 'window', 'a day, tenant and taxonomy'),
    ('accuracy_by_part', 'quality', 'window', 'a day, tenant, kind of truth and part'),
    ('wrong_reviews', 'quality', 'window', 'a review whose labels a truth contradicts'),
    ('failure_causes', 'quality', 'window', 'a cause of a day that the gate failed'),
    ('batch_quality', 'quality', 'window', 'a large batch'),
    ('label_judgements', 'labelling', 'all', 'a judgement: a labeller, review and field'),
    ('disputed_labels', 'labelling', 'window', 'a review and field that people do not agree on'),
    ('labeller_agreement', 'labelling', 'all', 'a pair of labellers and field'),
    ('label_progress', 'labelling', 'window', 'a label sample, day and stratum'),
    ('service_levels_daily', 'service', 'all', 'a day, tenant and promise'),
    ('error_budgets', 'service', 'all', 'a day, tenant and promise'),
    ('model_requests', 'requests', 'window', 'a day, tenant, model and outcome'),
    ('request_latency', 'requests', 'window', 'a day, tenant and model'),
    ('slow_requests', 'requests', 'window', 'a request that took much longer than its size predicts'),
    ('degradations', 'requests', 'window', 'an episode in which a model was slow'),
    ('drift_signals', 'drift', 'window', 'a day, tenant, category, signal and horizon'),
    ('daily_mix', 'drift', 'window', 'a day, tenant, category, signal and bucket'),
    ('alert_log', 'alerts', 'all', 'an alert or a recovery'),
    ('published_results', 'reviews', 'window', 'a published review'),
    ('ledger_entries', 'money', 'window', 'an entry of the ledger'),
    ('llm_requests', 'requests', 'window', 'a request to a model'),
    ('cost_rollups', 'money', 'all', 'a tenant, taxonomy and day'),
    ('spend_forecasts', 'money', 'window', 'a tenant and day that the forecast was made on'),
    ('budget_states', 'money', 'all', 'a tenant, budget period and day'),
    ('gate_verdicts', 'quality', 'window', 'a day, tenant and taxonomy'),
    ('accuracy_cells', 'quality', 'window', 'a day, tenant, kind of truth and part'),
    ('gate_causes', 'quality', 'window', 'a cause of a day that the gate failed'),
    ('scored_reviews', 'quality', 'window', 'a review that was judged by a truth'),
    ('batch_samples', 'quality', 'window', 'a large batch'),
    ('level_errors', 'cache', 'window', 'a day, tenant, level and class'),
    ('pattern_certificates', 'cache', 'window', 'a day, pattern, label and group of categories'),
    ('label_samples', 'labelling', 'window', 'a review whose text was drawn to be labelled'),
    ('human_labels', 'labelling', 'all', 'a judgement: a labeller, review and field'),
    ('resolved_labels', 'labelling', 'window', 'a day, review and field that people have labelled'),
    ('quarantined_labels', 'labelling', 'all', 'a row, or cell, of a label file that means nothing'),
    ('quarantined_reviews', 'reviews', 'window', 'a row of input that was not accepted'),
    ('request_latencies', 'requests', 'window', 'an answered request'),
    ('latency_episodes', 'requests', 'window', 'a day of an episode in which a model was slow'),
    ('daily_profiles', 'drift', 'window', 'a day, tenant, category, signal and bucket'),
    ('drift_tests', 'drift', 'window', 'a day, tenant, category, signal and horizon'),
    ('service_levels', 'service', 'all', 'a day, tenant and promise'),
    ('alerts', 'alerts', 'all', 'an alert or a recovery'),
    ('taxonomy_labels', 'reviews', 'none', 'a label that a field of a taxonomy may have'),
    ('about', 'catalog', 'none', 'this file'),
    ('catalog', 'catalog', 'none', 'a table or view'),
    ('catalog_columns', 'catalog', 'none', 'a column of a table or view')),
found AS (
    SELECT table_name AS name, 'table' AS kind, comment FROM duckdb_tables()
    WHERE database_name = current_database() AND table_name IN (SELECT name FROM published_names)
    UNION ALL
    SELECT view_name, CASE WHEN starts_with(view_name, 'dim_') THEN 'dimension'
        WHEN starts_with(view_name, 'fact_') THEN 'fact' ELSE 'view' END, comment
    FROM duckdb_views() WHERE database_name = current_database() AND NOT internal),
keys(dimension, position, columns) AS (VALUES
    ('dim_day', 1, ['day']), ('dim_tenant', 2, ['tenant']), ('dim_category', 3, ['category']),
    ('dim_level', 4, ['level']), ('dim_model', 5, ['model']),
    ('dim_label', 6, ['taxonomy', 'field', 'label'])),
joined AS (
    SELECT c.name, string_agg(dimension || ' (' || array_to_string(columns, ', ') || ')', ', '
        ORDER BY k.position) AS joins
    FROM (SELECT name, list(column_name) AS has FROM catalog_columns
        WHERE starts_with(name, 'fact_') GROUP BY name) c
    JOIN keys k ON list_has_all(c.has, k.columns) GROUP BY c.name)
SELECT name, kind, topic, days, one_row, joins, comment
FROM found LEFT JOIN described USING (name) LEFT JOIN joined USING (name)
ORDER BY array_position(['dimension', 'fact', 'view', 'table'], kind), topic, name;
