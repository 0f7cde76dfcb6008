"""From a request to pictures: the service, the render topic and the action.

`requests` checks a message, `render_service` answers it, `render_task` takes it over the device. Start at
`render_service`.
"""
